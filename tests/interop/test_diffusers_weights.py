"""Folders that diffusers writes are read, and folders that are written here diffusers reads, bit for bit."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import numpy as np  # noqa: E402

from minidiff import Generator  # noqa: E402
from minidiff.models import UNet2DModel  # noqa: E402
from minidiff.weights import CheckpointError, Weights  # noqa: E402

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "num_class_embeds": 3,
}
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def bits(state: Any) -> dict[str, bytes]:
    """The numbers of a state of either library, as they lie in memory."""
    found = {}
    for name, x in state.items():
        array = x.detach().contiguous().reshape(-1).view(torch.uint8).numpy() if torch.is_tensor(x) else x
        found[name] = np.ascontiguousarray(array).tobytes()
    return found


def file_names(folder: Path) -> set[str]:
    """Shards without their numbers: diffusers does not fill them as full."""
    return {re.sub(r"\d{5}-of-\d{5}", "N", path.name) for path in folder.iterdir()}


@pytest.fixture(params=["10GB", "20KB"])
def shard(request: pytest.FixtureRequest) -> str:
    """In one file, and in several with an index."""
    return str(request.param)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("dtype", TORCH)
def test_what_minidiff_writes_diffusers_reads_and_back(
    dtype: str, variant: str | None, shard: str, tmp_path: Path
) -> None:
    ours = UNet2DModel(**SMALL, rng=Generator(1))
    ours.save_pretrained(tmp_path / "a", dtype=dtype, variant=variant, max_shard_size=shard)
    theirs, report = diffusers.UNet2DModel.from_pretrained(
        tmp_path / "a", torch_dtype=TORCH[dtype], variant=variant, output_loading_info=True
    )
    assert not any(report.values()), report
    written = bits(Weights(*(tmp_path / "a").glob("*.safetensors")))
    assert bits(theirs.state_dict()) == written
    theirs.save_pretrained(tmp_path / "b", variant=variant, max_shard_size=shard)
    assert file_names(tmp_path / "b") == file_names(tmp_path / "a")
    again = UNet2DModel.from_pretrained(tmp_path / "b", dtype=dtype, variant=variant)
    assert bits(again.state_dict()) == written
    assert {key: value for key, value in again.config.items() if value is not None} == {
        key: value for key, value in ours.config.items() if value is not None
    }


def test_outputs_are_those_of_diffusers(shard: str, tmp_path: Path) -> None:
    theirs = diffusers.UNet2DModel(**SMALL)
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    ours = UNet2DModel.from_pretrained(tmp_path)
    x, t = Generator(2).normal((2, 3, 8, 8)), [5, 700]
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(x), torch.tensor(t), class_labels=torch.tensor([0, 2])
        ).sample.numpy()
    np.testing.assert_allclose(ours(x, t, np.asarray([0, 2])), expected, rtol=1e-4, atol=1e-5)


def test_the_command_for_pickled_weights_works(tmp_path: Path) -> None:
    """The one that the error tells, word for word."""
    theirs = diffusers.UNet2DModel(**SMALL)
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin: pickled weights") as caught:
        UNet2DModel.from_pretrained(tmp_path)
    command = shlex.split(str(caught.value).partition("\n")[2].strip())
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert bits(UNet2DModel.from_pretrained(tmp_path).state_dict()) == bits(theirs.state_dict())
