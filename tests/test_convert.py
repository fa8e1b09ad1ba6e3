"""`python -m minidiff convert`: what checkpoints are, and how they become folders of diffusers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff import Generator
from minidiff.__main__ import COMMANDS
from minidiff.checkpoints import describe_model, save_checkpoint
from minidiff.convert import main
from minidiff.models import MLP, UNet, UNet2DModel
from minidiff.weights import CheckpointError, open_weights, read_json, write_file

SMALL = {
    "sample_size": 8,
    "block_out_channels": (4, 8),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 2,
}
SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "lambda_min_clipped": float("-inf")}


def unet() -> UNet2DModel:
    return UNet2DModel(**SMALL, rng=Generator(3))


def make_run(folder: Path, model: Any = None) -> Path:
    """A run with two checkpoints, whose averages are its weights plus 1."""
    model = model or UNet(1, 2, 1, rng=Generator(2))
    ema = {name: array + 1 for name, array in model.state_dict().items()}
    description = {"model": describe_model(model), "image_shape": [1, 8, 8], "training": {"step": 20}}
    for step in (10, 20):
        state = {"model": model.state_dict(), "ema": ema, "optimizer": {}}
        save_checkpoint(folder / "checkpoints" / f"step-{step:08}", state, description)
    return folder


def make_pipeline(folder: Path) -> Path:
    unet().save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.1",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text("mine")
    return folder


def said(arguments: Sequence[Any], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    model = UNet(1, 2, 1)
    count, tensors = f"{model.num_parameters():,}", len(model.parameters())
    assert said([run], capsys).splitlines() == [
        f"{run}: a minidiff checkpoint",
        "  2 checkpoints, of which the newest is step-00000020",
        "  model: 'UNet' of in_channels=1, model_channels=2, out_channels=1, num_classes=None, attention=False, "
        "context_dim=None, heads=1",
        "  image_shape: [1, 8, 8]",
        "  trained for 20 steps",
        f"  model.safetensors: {count} float32 numbers in {tensors} tensors, 0.0 MB",
        f"  ema.safetensors: {count} float32 numbers in {tensors} tensors, 0.0 MB",
    ]


def test_the_averages_of_a_run_become_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    assert "written to" in said([run, "--output", tmp_path / "deep" / "out"], capsys)
    averages = UNet.from_pretrained(tmp_path / "deep" / "out").state_dict()
    for name, array in UNet(1, 2, 1, rng=Generator(2)).state_dict().items():
        np.testing.assert_array_equal(averages[name], array + 1)
    mlp = make_run(tmp_path / "mlp", MLP((2, 3), rng=Generator(0)))
    with pytest.raises(CheckpointError, match="a MLP, which has no from_pretrained"):
        main([str(mlp), "--output", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_pipeline(tmp_path / "p")
    count, megabytes = f"{unet().num_parameters():,}", f"{unet().num_parameters() * 4 / 1e6:.1f}"
    tensors = len(unet().parameters())
    assert said([folder], capsys).splitlines() == [
        f"{folder}: a pipeline",
        "  class: 'DDPMPipeline'",
        "  scheduler: DDPMScheduler",
        "    class: 'DDPMScheduler'",
        "    num_train_timesteps=1000, lambda_min_clipped=-inf",
        "  unet: UNet2DModel",
        "    class: 'UNet2DModel'",
        "    images: in_channels=3, out_channels=3, sample_size=8",
        f"    weights: {count} float32 numbers in {tensors} tensors, {megabytes} MB",
        "      weights and configuration fit UNet2DModel",
    ]


def test_a_pipeline_in_another_dtype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_pipeline(tmp_path / "p")
    said([folder, "--output", tmp_path / "out", "--dtype", "float16"], capsys)
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    weights = open_weights(tmp_path / "out" / "unet")
    for name, array in unet().state_dict().items():
        np.testing.assert_array_equal(weights[name], array.astype(np.float16))
    UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")


def test_an_older_pipeline_whose_parts_lie_beside_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_pipeline(tmp_path / "p")
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    assert "fit UNet2DModel" in said([folder], capsys)
    said([folder, "--output", tmp_path / "out", "--dtype", "bfloat16"], capsys)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in folder.iterdir()}
    assert {e.dtype for e in open_weights(tmp_path / "out").entries.values()} == {"bfloat16"}


def test_a_model_with_old_names_unknown_keys_and_variants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = tmp_path / "m", unet()
    model.save_pretrained(folder)
    state = {name.replace(".to_q.", ".query."): array for name, array in model.state_dict().items()}
    write_file(folder / "diffusion_pytorch_model.fp16.safetensors", state, dtype="float16")
    (folder / "config.json").write_text(json.dumps(read_json(folder / "config.json") | {"wings": 2}))
    text = said([folder], capsys)
    assert "weights, variant fp16: " in text
    assert text.count("unknown configuration keys, which change nothing: 'wings'") == 2
    assert text.count("weights and configuration fit UNet2DModel") == 2
    with pytest.warns(UserWarning, match="'wings'"):
        said([folder, "--output", tmp_path / "out", "--variant", "fp16"], capsys)
    weights = open_weights(tmp_path / "out")
    assert weights.keys() == model.state_dict().keys()
    assert {entry.dtype for entry in weights.entries.values()} == {"float16"}


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet().save_pretrained(tmp_path / "m")
    config = read_json(tmp_path / "m" / "config.json") | {"out_channels": 5}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert said([tmp_path / "m"], capsys).splitlines()[-3:] == [
        "    weights do not fit:",
        "      conv_out.weight has shape (3, 4, 3, 3), expected (5, 4, 3, 3)",
        "      conv_out.bias has shape (3,), expected (5,)",
    ]
    with pytest.raises(CheckpointError, match=r"the weights do not fit, conv_out\.weight has shape"):
        main([str(tmp_path / "m"), "--output", str(tmp_path / "out")])
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_model_of_another_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m").mkdir()
    write_file(tmp_path / "m" / "model.safetensors", {"a": np.ones(3, np.float32), "ids": np.arange(2)})
    (tmp_path / "m" / "config.json").write_text('{"architectures": ["CLIPTextModel"]}')
    assert said([tmp_path / "m"], capsys).splitlines()[1:] == [
        "  class: ['CLIPTextModel'], which minidiff does not have",
        "  weights: 3 float32, 2 int64 numbers in 2 tensors, 0.0 MB",
    ]


def test_a_scheduler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_pipeline(tmp_path / "p") / "scheduler"
    assert said([folder], capsys).splitlines()[:2] == [f"{folder}: a scheduler", "  class: 'DDPMScheduler'"]
    with pytest.raises(CheckpointError, match="a scheduler holds no weights to write"):
        main([str(folder), "--output", str(tmp_path / "out")])


def test_what_minidiff_has_no_sampler_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The index names the class, and the file may leave it out."""
    folder = make_pipeline(tmp_path / "p")
    index = read_json(folder / "model_index.json") | {"scheduler": ["diffusers", "ScoreSdeVeScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["mine", "Mine"]}))
    said_of_it = said([folder], capsys)
    assert "class: 'ScoreSdeVeScheduler'" in said_of_it
    assert "there is no sampler for _class_name 'ScoreSdeVeScheduler'" in said_of_it
    assert "_class_name: Mine" not in said_of_it
    config = {**SCHEDULER, "colour": 3, "beta_end": 7.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    said_of_it = said([folder / "scheduler"], capsys)
    assert "beta_end=7.0" in said_of_it
    assert "no sampler knows the options ['colour']" in said_of_it
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "scheduler" / "config.json")
    said_of_it = said([folder], capsys)
    assert "    no scheduler_config.json" in said_of_it
    assert "fit UNet2DModel" in said_of_it


def test_files_edited_on_windows_are_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Diffusers does not read JSON that begins with a byte order mark."""
    folder = make_pipeline(tmp_path / "p")
    for path in folder.rglob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    said([folder, "--output", tmp_path / "out"], capsys)
    for path in (tmp_path / "out").rglob("*.json"):
        assert path.read_bytes().startswith(b"{")
        assert json.loads(path.read_text()) == read_json(folder / path.relative_to(tmp_path / "out"))


def test_the_cache_of_the_hugging_face_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its snapshots are links to files of other names; what is written holds none."""
    folder, hub = make_pipeline(tmp_path / "p"), tmp_path / "models--mine--p"
    snapshot = hub / "snapshots" / "0123abc"
    (hub / "blobs").mkdir(parents=True)
    for i, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob, link = hub / "blobs" / str(i), snapshot / path.relative_to(folder)
        path.rename(blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    for where in (hub, hub / "snapshots"):
        with pytest.raises(CheckpointError, match=r"give a snapshot, such as .*snapshots/0123abc"):
            main([str(where)])
    with pytest.raises(CheckpointError, match=r"found config\.json; give its folder, .*unet"):
        main([str(snapshot / "unet" / "config.json")])
    assert "fit UNet2DModel" in said([snapshot], capsys)
    said([snapshot, "--output", tmp_path / "out"], capsys)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")


def test_a_lone_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.safetensors"
    write_file(path, {name: np.ones((2, 3), np.float32) for name in "abcd"})
    assert said([path], capsys).splitlines() == [
        f"{path}: weights without a configuration",
        "  a.safetensors: 24 float32 numbers in 4 tensors, 0.0 MB",
        "    format: 'pt'",
        *("    a (2, 3)", "    b (2, 3)", "    c (2, 3)", "    and 1 more"),
    ]
    said([path, "--output", tmp_path / "out", "--dtype", "bfloat16"], capsys)
    assert {entry.dtype for entry in open_weights(tmp_path / "out").entries.values()} == {"bfloat16"}
    with pytest.raises(CheckpointError, match="only models and pipelines have variants"):
        main([str(path), "--output", str(tmp_path / "new"), "--variant", "fp16"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", ["model.ckpt", "folder/pytorch_model.bin", "folder/unet/diffusion_pytorch_model.bin"]
)
def test_pickles(name: str, tmp_path: Path) -> None:
    """Alone, in a folder, and in a pipeline, which must not be written without its weights."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x80\x02.")
    arguments = [str(path.parent if "/" in name else path)]
    if "unet" in name:
        (path.parent / "config.json").write_text("{}")
        (path.parent.parent / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DModel"]}')
        arguments = [str(path.parent.parent), "--output", str(tmp_path / "out")]
    with pytest.raises(CheckpointError, match=r"pickled weights.*\n  python -c"):
        main(arguments)
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in [
        (tmp_path, r"no checkpoint that minidiff knows; found notes\.txt"),
        (tmp_path / "notes.txt", "no checkpoint that minidiff knows"),
        (tmp_path / "x", "no such file or folder"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            main([str(path)])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "p")
    before = sorted(tmp_path.rglob("*"))
    for output, message in [
        (folder, "is inside|exists already"),
        (tmp_path, "exists"),
        (folder / "x", "is inside"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            main([str(folder), "--output", str(output)])
    assert sorted(tmp_path.rglob("*")) == before


def call(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minidiff", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path / "m")
    assert (call("convert", tmp_path / "m").returncode, call().returncode) == (0, 2)
    bad = call("convert", tmp_path / "nothing")
    assert (bad.returncode, bad.stderr) == (2, f"error: {tmp_path}/nothing: no such file or folder\n")
    assert call("convert", tmp_path / "m", "--dtype", "float16").returncode == 2
    shutil.copy(tmp_path / "m" / "config.json", tmp_path / "m" / "diffusion_pytorch_model.safetensors")
    damaged = call("convert", tmp_path / "m")
    assert damaged.returncode == 2
    assert "not a whole safetensors file" in damaged.stderr
    help_text = call("--help").stdout
    assert all(name in help_text for name in COMMANDS)
