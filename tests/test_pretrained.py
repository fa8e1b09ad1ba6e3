"""Models in folders: from_pretrained, save_pretrained and what they say of folders that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidiff import Generator, nn, ops, value_and_grad
from minidiff.backend import Array, Backend
from minidiff.checkpoints import describe_model, load_model, save_checkpoint
from minidiff.models import SimpleDenoiser, UNet, UNet2DModel
from minidiff.models.pretrained import PretrainedModule
from minidiff.ops.support import dtype_name
from minidiff.optim import Adam
from minidiff.weights import CheckpointError, Weights

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Tower(PretrainedModule):
    """Linear layers of one width, once called differently."""

    def __init__(self, width: int = 4, depth: int = 2, *, rng: Generator | None = None) -> None:
        self.config = {"width": width, "depth": depth}
        rng = rng or Generator(0)
        self.layers = [nn.Linear(width, width, rng=rng) for _ in range(depth)]

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    @classmethod
    def renamed(cls, state: Mapping[str, Array]) -> Mapping[str, Array]:
        return {name.replace("floors.", "layers."): array for name, array in state.items()}


def small_unet_2d(device: Any = "cpu") -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        rng=Generator(5, device),
    )


MODELS = [
    lambda: UNet(1, 2, 1, num_classes=3, rng=Generator(4)),
    lambda: SimpleDenoiser(1),
    small_unet_2d,
    Tower,
]


def host(backend: Backend, array: Any) -> np.ndarray[Any, Any]:
    return np.asarray(backend.to_numpy(array))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("shard", ["10GB", 2000])
def test_round_trip(make: Any, shard: Any, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path, max_shard_size=shard)
    again = type(model).from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "_class_name": type(model).__name__,
        **model.config,
    }
    assert again.config == model.config
    assert repr(again) == repr(model)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_backend_and_dtype(dtype: str, backend: Backend, tmp_path: Path) -> None:
    """Parameters are those of the file, rounded, and serve inputs of their dtype."""
    if backend.device in ("array_api_strict", "strict", "simt") and dtype != "float32":
        pytest.skip(f"{backend.xp.__name__} has no half precision here")
    model = UNet(1, 4, 1, num_classes=3, attention=True)
    model.save_pretrained(tmp_path, dtype="bfloat16")
    loaded = UNet.from_pretrained(tmp_path, device=backend, dtype=dtype)
    for name, p in loaded.parameters().items():
        assert dtype_name(p.dtype) == dtype
        assert isinstance(p.data, backend.array_type)
        expected = model.state_dict()[name].astype(ml_dtypes.bfloat16).astype(np.float32)
        got = host(backend, backend.xp.astype(p.data, backend.xp.float32))
        if dtype != "float16":
            np.testing.assert_array_equal(got, expected)
        np.testing.assert_allclose(got, expected, rtol=2**-11, atol=2**-24)
    x = Generator(1).normal((2, 1, 8, 8))
    like = next(iter(loaded.parameters().values())).data
    y = loaded(backend.xp.astype(backend.from_numpy(x), like.dtype), 10)
    assert dtype_name(y.dtype) == dtype
    reference = UNet.from_pretrained(tmp_path)(x, 10)
    tolerance = {"float32": 1e-5, "float16": 0.02, "bfloat16": 0.15}[dtype]
    np.testing.assert_allclose(
        host(backend, backend.xp.astype(y, backend.xp.float32)), reference, atol=tolerance
    )


def test_half_parameters_serve_float32_inputs(tmp_path: Path) -> None:
    model = small_unet_2d()
    model.save_pretrained(tmp_path)
    half = UNet2DModel.from_pretrained(tmp_path, dtype="float16")
    x = Generator(1).normal((1, 3, 8, 8))
    assert half(x, 3).dtype == np.float32
    np.testing.assert_allclose(half(x, 3), model(x, 3), atol=0.01)


def test_a_loaded_model_trains_and_is_saved_over_its_own_files(tmp_path: Path) -> None:
    Tower().save_pretrained(tmp_path)
    model = Tower.from_pretrained(tmp_path)
    x = Generator(1).normal((8, 4))
    step = value_and_grad(lambda: ops.mse_loss(model(x), x), model)
    optimizer, losses = Adam(model, lr=0.1), []
    for _ in range(5):
        loss, grads = step()
        losses.append(float(loss))
        optimizer.step(grads)
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    again = Tower.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(x), model(x))


def test_nothing_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = UNet(1, 2, 1)
    model.save_pretrained(tmp_path / "folder")
    states = {"model": model.state_dict(), "ema": model.state_dict()}
    save_checkpoint(tmp_path / "checkpoint", states, {"model": describe_model(model)})

    def refuse(self: Generator, blocks: int) -> int:
        raise AssertionError("random numbers were drawn")

    monkeypatch.setattr(Generator, "_advance", refuse)
    UNet.from_pretrained(tmp_path / "folder")
    load_model(tmp_path / "checkpoint")
    with pytest.raises(AssertionError, match="random numbers were drawn"):
        UNet(1, 2, 1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_peak_is_one_copy_of_the_weights(dtype: str, tmp_path: Path) -> None:
    """Of the memory of the process; `python -m benchmarks.loading` measures that of the system."""
    Tower(512, 20).save_pretrained(tmp_path)
    tracemalloc.start()
    try:
        model = Tower.from_pretrained(tmp_path, dtype=dtype)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    weights = sum(p.data.nbytes for p in model.parameters().values())
    assert weights == model.num_parameters() * (4 if dtype == "float32" else 2)
    assert peak < 1.05 * weights + 2**17


RESIDENT = """
import sys
from minidiff import Generator, nn
from minidiff.models.pretrained import PretrainedModule

class Tower(PretrainedModule):
    def __init__(self, width, depth, *, rng):
        self.layers = [nn.Linear(width, width, rng=rng) for _ in range(depth)]

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

Tower(2, 1, rng=Generator(0))  # loads the backend
before = peak()
model = Tower.from_pretrained(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="other systems count memory otherwise")
def test_mapped_files_do_not_stay_in_memory(tmp_path: Path) -> None:
    Tower(1024, 16).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert 0.9 * 2**26 < int(done.stdout) * 1024 < 1.2 * 2**26  # 64 MiB of weights


def test_old_names_are_renamed(tmp_path: Path) -> None:
    model = Tower()
    model.save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes().replace(b'"layers.', b'"floors.'))
    np.testing.assert_array_equal(
        Tower.from_pretrained(tmp_path).layers[1].weight.data, model.layers[1].weight.data
    )


def test_from_config_draws(tmp_path: Path) -> None:
    made = Tower.from_config(
        {"_class_name": "Tower", "_diffusers_version": "0.1", "width": 3}, rng=Generator(7)
    )
    assert made.config == {"width": 3, "depth": 2}
    np.testing.assert_array_equal(
        made.layers[0].weight.data, Tower(3, rng=Generator(7)).layers[0].weight.data
    )
    with pytest.warns(
        UserWarning, match="Tower: unknown configuration keys, which change nothing: 'cellar', 'roof'"
    ):
        Tower.from_config({"roof": 1, "cellar": None})
    with pytest.raises(CheckpointError, match="the configuration of 'Bridge', not of 'Tower'"):
        Tower.from_config({"_class_name": "Bridge"})


def test_unknown_keys_are_reported_once_and_by_name(tmp_path: Path) -> None:
    Tower().save_pretrained(tmp_path)
    change_config(tmp_path, roof="flat", _private=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Tower.from_pretrained(tmp_path)
    (warning,) = caught
    assert "unknown configuration keys, which change nothing: 'roof'" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "UNet2DModel"},
            r"config\.json: .* the configuration of 'UNet2DModel', not of 'Tower'",
        ),
        ({"_class_name": 5}, "the configuration of 5, not of"),
        ({"width": "x"}, r"config\.json: Tower cannot be made from it"),
        ({"width": None}, "Tower cannot be made from it"),
        ({"depth": 10**9}, "it asks for many more tensors than the weights hold"),
        ({"width": 10**9}, "it asks for many more numbers than the weights hold"),
        ({"width": 1.5}, "Tower cannot be made from it: 'float' object cannot be interpreted as an integer"),
        (
            {"width": 5},
            r"\n  layers\.0\.weight has shape \(4, 4\), expected \(5, 5\)\n  layers\.0\.bias has shape",
        ),
        ({"depth": 1}, r"\n  unknown layers\.1\.weight \(4, 4\)\n  unknown layers\.1\.bias \(4,\)$"),
        ({"depth": 3}, r"\n  missing layers\.2\.weight \(4, 4\)\n  missing layers\.2\.bias \(4,\)$"),
        ({"width": float("nan")}, r"config\.json: not JSON \(NaN is no number"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    Tower().save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tower.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_parameters_are_floating_numbers(tmp_path: Path) -> None:
    model = Tower()
    model.save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight is int32, expected floating numbers"):
        Tower.from_pretrained(tmp_path)
    for wrong in ("int8", "float99"):
        with pytest.raises(ValueError, match=f"dtype must be one of float32, float16, .*, got '{wrong}'"):
            Tower.from_pretrained(tmp_path, dtype=wrong)


def test_a_pipeline_is_no_model(tmp_path: Path) -> None:
    Tower().save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    with pytest.raises(CheckpointError, match=r"say which part with subfolder= \(models here: unet\)"):
        Tower.from_pretrained(tmp_path)
    assert Tower.from_pretrained(tmp_path, subfolder="unet").config["width"] == 4
    with pytest.raises(
        CheckpointError, match=r"vae: no config\.json here; python -m minidiff convert '.*vae' says"
    ):
        Tower.from_pretrained(tmp_path, subfolder="vae")


def test_variants(tmp_path: Path) -> None:
    Tower().save_pretrained(tmp_path, variant="fp16", dtype=np.float16)
    (tensors,) = (Weights(path) for path in tmp_path.glob("*.fp16.safetensors"))
    assert {entry.dtype for entry in tensors.entries.values()} == {"float16"}
    assert Tower.from_pretrained(tmp_path, variant="fp16").layers[0].weight.dtype == np.float32
    with pytest.raises(CheckpointError, match=r"there are variants: fp16 \(say variant=, or --variant\)"):
        Tower.from_pretrained(tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    Tower().save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        Tower.from_pretrained(tmp_path)
