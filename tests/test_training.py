"""The loop: what it learns, what it saves, and that a run which was killed ends like one that was not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, cli, ops
from minidiff.backend import Backend
from minidiff.checkpoints import CheckpointError, checkpoints_in
from minidiff.data import Dataset, load_digits
from minidiff.diffusion import GaussianDiffusion
from minidiff.models import UNet
from minidiff.optim import EMA, Adam
from minidiff.training import Trainer, TrainingError, batch_indices


def loss(model: Any, x: Any, labels: Any, rng: Generator) -> Any:
    return GaussianDiffusion(prediction_type="v_prediction").loss(model, x, rng, labels=labels)


def trainer(folder: Path, backend: str | Backend = "cpu", **options: Any) -> Trainer:
    rng = Generator(5, backend)
    model = UNet(1, 2, 1, num_classes=10, rng=rng)
    arguments: dict[str, Any] = {
        "model": model,
        "loss": loss,
        "dataset": load_digits(),
        "optimizer": Adam(model, lr=2e-3),
        "ema": EMA(model, decay=0.9),
        "rng": rng,
        "output_dir": folder,
        "description": {"settings": {"batch": 8}},
        "steps": 6,
        "batch_size": 8,
        "log_every": 2,
        "checkpoint_every": 2,
    }
    return Trainer(**{**arguments, **options})


def weights(folder: Path) -> dict[str, bytes]:
    newest = checkpoints_in(folder)[-1]
    return {"step": newest.name.encode(), **{p.name: p.read_bytes() for p in newest.glob("*.safetensors")}}


def test_every_epoch_is_a_permutation() -> None:
    drawn = np.concatenate([batch_indices(step, 10, 4, seed=1) for step in range(15)])
    epochs = drawn.reshape(6, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6
    assert not np.array_equal(drawn[:10], batch_indices(0, 10, 10, seed=2))
    assert len(batch_indices(3, 10, 35, seed=1)) == 35  # a batch larger than the data set


def test_trains_on_every_backend(
    backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[int] = []
    run = trainer(tmp_path, backend, on_sample=drawn.append, sample_every=4)
    before = {name: backend.to_numpy(p.data).copy() for name, p in run.model.parameters().items()}
    assert run.run()
    assert drawn == [4, 6]
    changed = [
        name for name, p in run.model.parameters().items() if (backend.to_numpy(p.data) != before[name]).any()
    ]
    assert len(changed) == len(before)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(0.5 < line["baseline"] < 1.0 and np.isfinite(line["loss"]) for line in lines)
    assert "predicting zero" in capsys.readouterr().out
    assert [p.name for p in checkpoints_in(tmp_path)] == ["step-00000004", "step-00000006"]


def test_trains_what_the_optimizer_was_given(tmp_path: Path) -> None:
    """And computes and clips gradients of nothing else: the rest has no part in the steps."""
    run = trainer(tmp_path)
    before, some = run.model.state_dict(), {n: p for n, p in run.model.parameters().items() if "up3" in n}
    run.optimizer, run.clip_norm = Adam(some, lr=2e-3), 1e-3
    given: list[Any] = []
    step = run.optimizer.step
    run.optimizer.step = lambda grads: given.append(grads) or step(grads)  # type: ignore[method-assign,func-returns-value]
    assert run.run()
    changed = {name for name, x in run.model.state_dict().items() if not np.array_equal(x, before[name])}
    assert changed == set(some) < set(before)
    assert all(set(grads) == set(some) for grads in given)
    assert np.sqrt(sum((g**2).sum() for g in given[0].values())) == pytest.approx(1e-3, rel=1e-4)


def test_resume_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert trainer(tmp_path / "whole").run()
    half = trainer(tmp_path / "parts")
    half.steps = 4
    half.run()
    description = checkpoints_in(tmp_path / "parts")[-1] / "checkpoint.json"
    description.write_text(description.read_text().replace('"steps": 4', '"steps": 6'))
    other = trainer(tmp_path / "parts")
    assert other.resume()
    assert other.step == 4
    other.run()
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_other_settings_are_refused_and_restart_deletes(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match=r"settings was \{'batch': 8\}, now \{'batch': 9\}"):
        trainer(tmp_path, description={"settings": {"batch": 9}}).resume()
    with pytest.raises(CheckpointError, match="steps was 6, now 7"):
        trainer(tmp_path, steps=7).resume()
    assert checkpoints_in(tmp_path)
    assert not trainer(tmp_path, steps=7).resume(restart=True)
    assert not checkpoints_in(tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    path = checkpoints_in(tmp_path)[-1] / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: not a whole safetensors file"):
        trainer(tmp_path).resume()


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    def explode(model: Any, x: Any, labels: Any, rng: Generator) -> Any:
        value = loss(model, x, labels, rng)
        return value * (np.inf if run.step == 4 else 1.0)

    run = trainer(tmp_path, loss=explode)
    with pytest.raises(
        TrainingError, match=r"step 4: the loss is inf at .* The last checkpoint is .*step-00000004"
    ):
        run.run()
    state = run.model.state_dict()
    assert all(np.isfinite(a).all() for a in state.values())


def test_out_of_memory_keeps_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def large(model: Any, x: Any, labels: Any, rng: Generator) -> Any:
        if run.step == 5:
            np.empty(1 << 55)
        return loss(model, x, labels, rng)

    run = trainer(tmp_path, loss=large)
    before = {}
    run.on_sample, run.sample_every = lambda step: before.update(weights(tmp_path)), 5
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: cli.train(run, restart=False))
    assert ended.value.code == 1
    assert re.search(
        r"^error: step 5: Unable to allocate 256\. PiB .*The last checkpoint is .*step-00000004; lower the batch size",
        capsys.readouterr().err,
    )
    assert weights(tmp_path) == before
    run.loss = loss
    assert run.run()  # weights and moments are those of step 5


def test_no_labels(tmp_path: Path) -> None:
    def unlabelled(model: Any, x: Any, labels: Any, rng: Generator) -> Any:
        assert labels is None
        return ops.mean(ops.square(model(x, 3)))

    pictures = Dataset(np.zeros((5, 1, 4, 4), np.float32))
    assert trainer(tmp_path, dataset=pictures, loss=unlabelled).run()


SCRIPT = Path(__file__).parent.parent / "examples" / "train_digits.py"
ARGUMENTS = [
    "--steps",
    "24",
    "--channels",
    "2",
    "--batch-size",
    "8",
    "--checkpoint-every",
    "2",
    "--sample-every",
    "12",
]


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--output-dir", str(folder), *ARGUMENTS]
    pipe = subprocess.PIPE

    def listen() -> None:
        """To Ctrl-C, which whoever started the tests may have told them to ignore."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    before = None if os.name == "nt" else listen
    return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, preexec_fn=before)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not list(folder.glob("checkpoints/step-*")):
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_and_interrupted_runs_end_like_a_whole_one(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    output, _ = whole.communicate()
    assert whole.returncode == 0, output

    rng, kills = np.random.default_rng(1), 0
    for _ in range(12):
        process = start(tmp_path / "killed")
        wait_for_checkpoint(tmp_path / "killed", process)
        time.sleep(float(rng.uniform(0.5, 0.9)))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0 or kills == 3:
            break
    last = start(tmp_path / "killed")
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert kills >= 1
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")

    process = start(tmp_path / "interrupted")
    wait_for_checkpoint(tmp_path / "interrupted", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "the same command goes on from here" in output
    process = start(tmp_path / "interrupted")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "found:" in output
    assert weights(tmp_path / "interrupted") == weights(tmp_path / "whole")
    metrics = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics][-1] == 24
