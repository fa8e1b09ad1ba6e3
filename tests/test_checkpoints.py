"""Checkpoints: complete or absent, and a clear error for anything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff import Generator
from minidiff.backend import Backend
from minidiff.checkpoints import (
    CheckpointError,
    checkpoints_in,
    describe_model,
    find_checkpoint,
    keep_newest,
    load_model,
    read_checkpoint,
    read_tensors,
    save_checkpoint,
)
from minidiff.models import MLP, SimpleDenoiser, UNet


def small(device: str | Backend = "cpu", seed: int = 0) -> UNet:
    return UNet(1, 2, 1, num_classes=3, rng=Generator(seed, device))


def saved(folder: Path, model: Any = None) -> Path:
    model = model or small()
    save_checkpoint(
        folder,
        {"model": model.state_dict(), "ema": model.state_dict()},
        {"model": describe_model(model), "more": [1]},
    )
    return folder


def test_round_trip_on_every_backend(backend: Backend, tmp_path: Path) -> None:
    model = small(backend, seed=3)
    loaded, description = load_model(saved(tmp_path / "c", model), device=backend)
    assert description["more"] == [1]
    assert loaded.config == model.config
    for name, array in loaded.state_dict().items():
        assert isinstance(array, backend.array_type)
        np.testing.assert_array_equal(backend.to_numpy(array), backend.to_numpy(model.state_dict()[name]))


@pytest.mark.parametrize(
    "model",
    [
        MLP((2, 8, 1), activation="tanh", rng=Generator(0)),
        SimpleDenoiser(1),
        UNet(3, 2, 3, attention=True, context_dim=5),
    ],
)
def test_every_model_can_be_made_again(model: Any, tmp_path: Path) -> None:
    again, _ = load_model(saved(tmp_path / "c", model))
    assert repr(again) == repr(model)
    assert again.config == model.config


def test_files_are_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    folder = saved(tmp_path / "c")
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json",
        "ema.safetensors",
        "model.safetensors",
    ]
    assert load_file(folder / "model.safetensors").keys() == small().state_dict().keys()


def test_arrays_in_any_order_of_memory(backend: Backend, tmp_path: Path) -> None:
    """Also scalars, views with gaps, and nothing at all: what is read has the shape and numbers of what was saved."""
    host = np.arange(2 * 3 * 5 * 7, dtype=np.float32).reshape(2, 3, 5, 7)
    x = backend.from_numpy(host)
    arrays = {
        "transposed": backend.xp.permute_dims(x, (3, 2, 0, 1)),
        "with gaps": x[:, 1:, ::2, :],
        "scalar": x[1, 2, 3, 4],
        "empty": x[:0, ...],
    }
    save_checkpoint(tmp_path / "c", {"a": arrays}, {})
    read = read_tensors(tmp_path / "c", "a")
    expected = {
        "transposed": host.transpose(3, 2, 0, 1),
        "with gaps": host[:, 1:, ::2],
        "scalar": host[1, 2, 3, 4],
        "empty": host[:0],
    }
    assert read.keys() == expected.keys()
    for name, array in read.items():
        assert array.shape == expected[name].shape, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_run_means_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (1, 20, 3):
        saved(tmp_path / "checkpoints" / f"step-{step:08d}")
    (tmp_path / "checkpoints" / "step-00000099").mkdir()  # no description: never finished
    assert find_checkpoint(tmp_path).name == "step-00000020"
    keep_newest(tmp_path, 2)
    assert [p.name for p in checkpoints_in(tmp_path)] == ["step-00000003", "step-00000020"]


def test_reading_leaves_what_another_process_is_writing(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoints" / "step-00000001")
    unfinished = [tmp_path / "checkpoints" / ".tmp-12345678", tmp_path / ".tmp-12345678"]  # here a pipeline
    for folder in unfinished:
        folder.mkdir()
    assert load_model(tmp_path)[1]["more"] == [1]
    assert all(folder.is_dir() for folder in unfinished)
    keep_newest(tmp_path, 2)
    assert not any(folder.exists() for folder in unfinished)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint here; expected checkpoint\.json"):
        find_checkpoint(tmp_path)
    (saved(tmp_path / "c") / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: no such file"):
        load_model(tmp_path / "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "not JSON"),
        ("[1]", "found a list"),
        ('{"format": "other"}', "found 'other'"),
        ('{"format": "minidiff checkpoint 1"}', "describes no model"),
        ('{"format": "minidiff checkpoint 1", "model": {"type": "os.system"}}', "unknown model 'os.system'"),
        ('{"format": "minidiff checkpoint 1", "model": {"type": "UNet", "wings": 2}}', "cannot be made"),
        (
            '{"format": "minidiff checkpoint 1", "model": {"type": "UNet", "in_channels": "x"}}',
            "cannot be made",
        ),
    ],
)
def test_foreign_descriptions(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "c") / "checkpoint.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "c")


def test_weights_of_another_network(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c")
    description = read_checkpoint(folder)
    description["model"]["num_classes"] = 4
    (folder / "checkpoint.json").write_text(json.dumps(description))
    with pytest.raises(
        CheckpointError, match=r"label_embedding.weight has shape \(4, 8\), expected \(5, 8\)"
    ):
        load_model(folder)


def test_damaged_files_are_refused_or_harmless(tmp_path: Path) -> None:
    path = saved(tmp_path / "c") / "model.safetensors"
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for i in range(300):
        damaged = bytearray(whole)
        if i % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        elif i % 3 == 1:
            damaged[rng.integers(2000)] ^= 1 << int(rng.integers(8))
        else:
            damaged[:8] = int(rng.integers(2**62)).to_bytes(8, "little")
        path.write_bytes(damaged)
        try:
            read_tensors(path.parent, "model")
        except CheckpointError as error:
            refused += "model.safetensors" in str(error)
    assert refused > 200


WRITER = """
import sys
from pathlib import Path
import numpy as np
from minidiff.checkpoints import save_checkpoint, keep_newest
run = Path(sys.argv[1])
for step in range(1, 10_000):
    arrays = {str(i): np.full((200, 200), step, np.float32) for i in range(10)}
    save_checkpoint(run / "checkpoints" / f"step-{step:08d}", {"a": arrays, "b": arrays}, {"step": step})
    keep_newest(run, 2)
    print(step, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill_while_writing_leaves_whole_checkpoints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for attempt in range(4):
        run = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(run)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()  # the first is written
        time.sleep(float(rng.uniform(0, 0.05)))
        process.send_signal(signal.SIGKILL)
        reported = [1, *map(int, process.stdout.read().split())][-1]
        process.wait()
        process.stdout.close()
        found = find_checkpoint(run)
        step = read_checkpoint(found)["step"]
        assert step in (reported, reported + 1)
        for name in "ab":
            assert all((a == step).all() for a in read_tensors(found, name).values())
        keep_newest(run, 2)
        assert find_checkpoint(run) == found
        assert not list(run.rglob(".tmp-*"))


def test_description_must_be_json(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    bad: Any = {"array": np.zeros(2)}
    with pytest.raises(TypeError):
        save_checkpoint(folder, {"model": {}}, bad)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
