"""What the example scripts share: what they accept, what they refuse, and before which work."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, cli, get_backend
from minidiff.data import Dataset, load_digits
from minidiff.diffusion import DDIM, EDMEuler
from minidiff.models import UNet2DModel
from minidiff.pipelines import Pipeline, save_pipeline

EXAMPLES = Path(__file__).parent.parent / "examples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unet(**options: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(4, 8), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=2, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.positive, ["1", "7"], ["0", "-3"]),
        (cli.natural, ["0", "7"], ["-1"]),
        (cli.positive_float, ["1e-9", "3"], ["0", "-1", "nan", "inf"]),
        (cli.not_negative, ["0", "1e-9"], ["-1e-9", "nan", "inf"]),
        (cli.share, ["0", "0.9995"], ["-0.1", "1", "nan"]),
    ],
)
def test_numbers_are_checked_before_any_work(kind: Any, good: list[str], bad: list[str]) -> None:
    assert [kind(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"must be .*, got"):
            kind(text)


@pytest.mark.parametrize("seed", ["-1", str(2**64), "x"])
def test_seeds_are_those_of_a_generator(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed", seed])
    assert "argument --seed" in capsys.readouterr().err


def test_labels() -> None:
    assert cli.parse_labels("3,5-7, 0", 8) == [3, 5, 6, 7, 0]
    for text, count, message in (
        ("0-99999999999999", 8, "is not within 0 to 7"),  # without a list of them
        ("7-3", 8, "is not within"),
        ("0", 0, "the network has no classes"),
    ):
        with pytest.raises(cli.UsageError, match=message):
            cli.parse_labels(text, count)


def test_a_place_for_the_output_is_looked_for_first(tmp_path: Path) -> None:
    assert cli.output_file(str(tmp_path / "x.png")) == tmp_path / "x.png"
    with pytest.raises(argparse.ArgumentTypeError, match=r"there is no folder .*nowhere; make it first"):
        cli.output_file(str(tmp_path / "nowhere" / "x.png"))
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder"):
        cli.output_file(str(tmp_path))


@pytest.mark.parametrize("name", ["x.npz", "x.dat", "x"])
def test_arrays_are_written_under_the_name_that_was_typed(name: str, tmp_path: Path) -> None:
    cli.save_arrays(tmp_path / name, a=np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with np.load(tmp_path / name) as arrays:
        np.testing.assert_array_equal(arrays["a"], np.arange(3))


def test_a_pipeline_of_a_variant(tmp_path: Path) -> None:
    save_pipeline(Pipeline(unet(), DDIM()), tmp_path / "p", dtype="float16", variant="fp16")
    parser = argparse.ArgumentParser()
    cli.add_pipeline_arguments(parser)
    args = parser.parse_args(["--model", str(tmp_path / "p"), "--variant", "fp16", "--dtype", "float16"])
    assert str(cli.open_pipeline(args, get_backend("cpu")).weights[0].dtype) == "float16"


def test_the_sampler_that_was_asked_for() -> None:
    pipeline = Pipeline(unet(), DDIM())
    assert cli.with_sampler(pipeline, None) is pipeline
    assert not pipeline.sampler.use_clipped_model_output  # type: ignore[attr-defined]
    assert cli.with_sampler(pipeline, "ddim", guidance=2).sampler.use_clipped_model_output  # type: ignore[attr-defined]
    with pytest.raises(
        cli.UsageError, match=r"'ddim' does not fit a network made for EDMEuler\(\); .*'edm-heun'"
    ):
        cli.with_sampler(Pipeline(unet(), EDMEuler()), "ddim")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, None),
        ({"num_class_embeds": 10}, None),
        ({"num_class_embeds": 11}, None),
        ({"num_class_embeds": 5}, "the network has 5 labels, digits has 10 classes; give pictures in 5 sub-folders"),
        ({"class_embed_type": "timestep"}, "labels of class_embed_type='timestep', which are no classes"),
    ],
)  # fmt: skip
def test_finetuning_asks_for_the_classes_of_the_network(options: dict[str, Any], message: str | None) -> None:
    check = script("finetune").check_classes
    model, digits = unet(rng=Generator(0), **options), load_digits()
    if message is None:
        check(model, digits)
    else:
        with pytest.raises(cli.UsageError, match=message):
            check(model, digits)
    if model.class_embedding is not None:
        with pytest.raises(cli.UsageError):
            check(model, Dataset(digits.pixels[:2]))


@pytest.mark.skipif(os.name != "posix", reason="pipes break otherwise elsewhere")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_who_has_enough_is_no_error(lines: int) -> None:
    program = f"from minidiff import cli; cli.run(lambda: print('line\\n' * {lines}))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
