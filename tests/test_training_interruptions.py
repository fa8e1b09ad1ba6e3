"""What comes in between: Ctrl-C at odd moments, a full disk, a run that never reached a checkpoint, another network."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, nn, training
from minidiff.checkpoints import checkpoints_in
from minidiff.training import batch_indices
from tests.test_training import loss, trainer, weights


@pytest.fixture
def handler() -> Iterator[Any]:
    """What Ctrl-C does, as Python has it; a shell may have told the tests to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def pressing_ctrl_c(at: list[int]) -> Any:
    """The loss of a run in whose calls of these numbers Ctrl-C is pressed (the first 8 find the baseline)."""
    calls: list[int] = []

    def pressed(model: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) in at:
            signal.raise_signal(signal.SIGINT)
        return loss(model, *rest)

    return pressed


class Closed:
    """A stream in the middle of another print, or without anybody at its end."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> int:
        """Fail."""
        raise self.error

    def flush(self) -> None:
        """Nothing to do."""

    def isatty(self) -> bool:
        """No: a progress bar would fail, too."""
        return False


@pytest.mark.parametrize(
    "error",
    [RuntimeError("reentrant call inside <_io.BufferedWriter>"), BrokenPipeError(), ValueError("closed")],
)
@pytest.mark.usefixtures("handler")
def test_ctrl_c_saves_a_checkpoint_where_nothing_can_be_printed(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, loss=pressing_ctrl_c([11]), checkpoint_every=100)
    monkeypatch.setattr(sys, "stderr", Closed(error))
    assert not run.run()
    assert checkpoints_in(tmp_path)[-1].name == "step-00000003"


def test_ctrl_c_twice_stops_at_once_and_the_handler_is_put_back(handler: Any, tmp_path: Path) -> None:
    run = trainer(tmp_path, loss=pressing_ctrl_c([12, 13]))

    def press_again(step: int) -> None:
        signal.raise_signal(signal.SIGINT)

    run.on_sample, run.sample_every = press_again, 4
    before = {name: p.data for name, p in run.model.parameters().items()}
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoints_in(tmp_path)[-1].name == "step-00000002"
    assert all((run.ema.averaged[name] != p.data).any() for name, p in run.model.parameters().items())
    assert before.keys() == run.model.parameters().keys()


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    """A shell starts what it runs in the background so: Ctrl-C is for the program in front."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert trainer(tmp_path, loss=pressing_ctrl_c([11])).run()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_never_reached_a_checkpoint_leaves_no_metrics(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step}) for step in (2, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "lo')  # the disk was full
    run = trainer(tmp_path)
    assert not run.resume()
    run.run()
    assert steps_in(tmp_path) == [2, 4, 6]


def test_half_a_line_of_metrics_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text('{"step": 2, "lo{"step": 4}\n[2]\n' + whole)
    assert trainer(tmp_path).resume()
    assert metrics.read_text() == whole


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this system has no limit for files")
def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    import resource

    assert trainer(tmp_path / "whole").run()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int) -> None:
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    run = trainer(tmp_path / "full", on_sample=fill, sample_every=2)
    try:
        with pytest.raises(OSError, match="File too large"):
            run.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (tmp_path / "full" / "checkpoints").iterdir()] == ["step-00000002"]
    again = trainer(tmp_path / "full")
    assert again.resume()
    assert again.step == 2
    assert again.run()
    assert weights(tmp_path / "full") == weights(tmp_path / "whole")
    assert steps_in(tmp_path / "full") == [2, 4, 6]


def test_a_layer_that_came_after_the_optimizer_is_named(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.model.final_conv = nn.Conv2d(2, 1, 3, padding=1, rng=Generator(0))
    with pytest.raises(ValueError, match=r"Trainer: 'final_conv\.\w+' of the optimizer is not a parameter"):
        run.run()
    assert not list(tmp_path.iterdir())


def test_an_epoch_is_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    permutation = Generator.permutation

    def counted(self: Generator, n: int) -> Any:
        drawn.append(n)
        return permutation(self, n)

    monkeypatch.setattr(Generator, "permutation", counted)
    training._permutation.cache_clear()
    batches = [batch_indices(step, 1000, 64, seed=3) for step in range(31)]
    assert drawn == [1000, 1000]  # 31 * 64 = 1984 of two epochs
    assert np.unique(np.concatenate(batches)[:1000]).size == 1000
