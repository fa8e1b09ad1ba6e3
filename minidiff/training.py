"""The training loop: batches in, gradients, an optimizer step, and a checkpoint now and then.

Everything random or remembered is in the checkpoint or is a function of the step number,
so a run that was killed goes on from its last checkpoint and ends with the same weights,
bit for bit, as one that was not.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.backend import Array
from minidiff.checkpoints import (
    CheckpointError,
    checkpoints_in,
    describe_model,
    keep_newest,
    read_checkpoint,
    read_tensors,
    save_checkpoint,
)
from minidiff.data import Dataset
from minidiff.files import atomic_path
from minidiff.loss_and_gradients import Loss, LossAndGradients
from minidiff.optim import EMA, Optimizer, clip_gradients
from minidiff.random import Generator

__all__ = ["Trainer", "TrainingError", "batch_indices"]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


def batch_indices(step: int, size: int, batch: int, seed: int) -> np.ndarray[Any, Any]:
    """Which examples step number `step` trains on: every epoch is a new permutation, a function of (seed, epoch).

    Parameters
    ----------
    step : int
        From 0.
    size, batch : int
        Examples in the data set, and in a batch; a batch may span two epochs.
    seed : int

    Returns
    -------
    NumPy array of int64, shape (batch,)
    """
    first = step * batch
    epochs = range(first // size, (first + batch - 1) // size + 1)
    order = np.concatenate([_permutation(size, epoch, seed) for epoch in epochs])
    start = first - epochs[0] * size
    return order[start : start + batch]


@lru_cache(maxsize=2)  # a batch may span two; sorting a million images takes a tenth of a second
def _permutation(size: int, epoch: int, seed: int) -> np.ndarray[Any, Any]:
    rng = Generator(seed)
    rng.state = {"seed": seed, "counter": epoch << 32}
    order: np.ndarray[Any, Any] = rng.permutation(size)
    return order


@dataclass
class Trainer:
    """One training run and the folder it lives in.

    Parameters
    ----------
    model : Module
        With a `config`, so that a checkpoint can make it again.
    loss : callable
        `loss(model, images, labels, rng) -> scalar`, with images (B, C, H, W) and labels (B,)
        or None on the model's device; draws its noise from `rng`. On CUDA it is called in the first steps only
        (`Backend.compile`), and what it launched is repeated: it must depend on its arguments alone.
    dataset : Dataset
    optimizer : Optimizer
        One of `minidiff.optim`, of the model or of some of its parameters; the others stay as they are, and have no
        gradients.
    ema : EMA
    rng : Generator
        On the model's device.
    output_dir : Path
        Gets `checkpoints/` and `metrics.jsonl`.
    description : mapping
        JSON values saved with every checkpoint. A run resumes only where they are the same.
    steps, batch_size : int
    clip_norm : float
        Gradients are scaled down to this norm.
    log_every, checkpoint_every, sample_every : int
        In steps.
    on_sample : callable, optional
        `on_sample(step)` is called every `sample_every` steps with the averages in the model.
    """

    model: Any
    loss: Loss
    dataset: Dataset
    optimizer: Optimizer
    ema: EMA
    rng: Generator
    output_dir: Path
    description: Mapping[str, Any]
    steps: int
    batch_size: int
    clip_norm: float = 1.0
    log_every: int = 100
    checkpoint_every: int = 500
    sample_every: int = 500
    on_sample: Callable[[int], None] | None = None
    step: int = field(default=0, init=False)
    baseline: float = field(default=math.nan, init=False)

    def resume(self, *, restart: bool = False) -> bool:
        """Go on from the newest checkpoint in `output_dir`, if there is one.

        Parameters
        ----------
        restart : bool
            Delete the checkpoints and metrics there instead.

        Returns
        -------
        bool
            Whether a checkpoint was loaded.

        Raises
        ------
        CheckpointError
            If the checkpoint is damaged, or was made with other settings.
        """
        found = checkpoints_in(self.output_dir)
        if restart:
            shutil.rmtree(self.output_dir / "checkpoints", ignore_errors=True)
            (self.output_dir / "metrics.jsonl").unlink(missing_ok=True)
        if restart or not found:
            self._forget_metrics_after(0)
            return False
        folder, saved = found[-1], read_checkpoint(found[-1])
        self._check_same_settings(folder, saved)
        try:
            self.model.load_state_dict(read_tensors(folder, "model"))
            self.step = int(saved["training"]["step"])
            self.rng.state = saved["training"]["rng"]
            self.ema.load_state_dict(read_tensors(folder, "ema"), steps=self.step)
            self.optimizer.load_state_dict(read_tensors(folder, "optimizer"), steps=self.step)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: does not fit this run: {error}") from None
        self._forget_metrics_after(self.step)
        return True

    def run(self) -> bool:
        """Train to the last step; return False if Ctrl-C ended it early, after saving a checkpoint.

        Raises
        ------
        TrainingError
            If the loss or a gradient is not finite. The last checkpoint is from before.
        MemoryError
            If a batch does not fit. The last checkpoint is from before.
        ValueError
            If the optimizer trains what is not a parameter of the model.
        """
        self._check_parameters()
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.baseline = self._loss_of_zero()
        self._differentiate = LossAndGradients(self.model, self.loss, self.rng, self.optimizer.trained)
        recent: list[float] = []
        began = time.perf_counter()
        with _interrupt_at_step_end() as interrupted, self._bar() as bar:
            while self.step < self.steps and not interrupted.is_set():
                loss, norm = self._one_step()
                recent.append(loss)
                self.step += 1
                bar.update()
                last = self.step == self.steps
                if self.step % self.log_every == 0 or last:
                    seconds, began = time.perf_counter() - began, time.perf_counter()
                    self._log(bar, recent, norm, seconds)
                    recent = []
                if self.on_sample and (self.step % self.sample_every == 0 or last):
                    with self.ema.swapped_in():
                        self.on_sample(self.step)
                if self.step % self.checkpoint_every == 0 or last:
                    self._save()
            if self.step < self.steps:
                self._save()
        return self.step == self.steps

    def _check_parameters(self) -> None:
        mine = set(self.model.parameters().values())
        strangers = [name for name, p in self.optimizer.trained.items() if p not in mine]
        if strangers:
            raise ValueError(
                f"Trainer: {strangers[0]!r} of the optimizer is not a parameter of the model; make the optimizer, "
                "and the EMA, after the last layer was put into the model"
            )

    def _one_step(self) -> tuple[float, float]:
        """Train on one batch; return the loss and the norm of its gradient."""
        try:
            value, grads = self._differentiate(*self._batch(self.step))
            loss = float(value)
            self._check_finite("loss", loss)
            grads, norm = clip_gradients(grads, self.clip_norm)
            self._check_finite("gradient norm", norm)
            self.optimizer.step(grads)
            self.ema.update()
        except MemoryError as error:
            raise MemoryError(f"step {self.step}: {error}. {self._last_checkpoint()}") from error
        return loss, norm

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"step {self.step}: the {what} is {value} at learning rate {self.optimizer.learning_rate:.3g}; "
                f"try a lower learning rate or a longer warm-up. {self._last_checkpoint()}"
            )

    def _last_checkpoint(self) -> str:
        found = checkpoints_in(self.output_dir)
        return f"The last checkpoint is {found[-1]}" if found else "No checkpoint was written yet"

    def _batch(self, step: int) -> tuple[Array, Array | None]:
        """The images and labels of a step, on the model's device."""
        indices = batch_indices(step, len(self.dataset), self.batch_size, self.rng.state["seed"])
        images, labels = self.dataset.batch(indices)
        put = self.rng.backend.from_numpy
        return put(images), None if labels is None else put(labels)

    def _loss_of_zero(self, batches: int = 8) -> float:
        """The loss of a network that always predicts zero: what there is to gain."""
        rng = Generator(self.rng.state["seed"], self.rng.backend)

        def zero(x: Array, *args: Any, **kwargs: Any) -> Array:
            return 0 * x

        return sum(float(self.loss(zero, *self._batch(step), rng)) for step in range(batches)) / batches

    def _bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.steps, initial=self.step, unit="step", disable=None
        )  # None: only on a terminal

    def _log(self, bar: Any, recent: list[float], norm: float, seconds: float) -> None:
        line = {
            "step": self.step,
            "loss": sum(recent) / len(recent),
            "baseline": self.baseline,
            "learning_rate": self.optimizer.learning_rate,
            "gradient_norm": norm,
            "steps_per_second": len(recent) / seconds,
        }
        with (self.output_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        bar.write(
            f"step {self.step}/{self.steps}  loss {line['loss']:.4f} (predicting zero: {self.baseline:.4f})  "
            f"{line['steps_per_second']:.1f} steps/s"
        )

    def _save(self) -> None:
        save_checkpoint(
            self.output_dir / "checkpoints" / f"step-{self.step:08d}",
            {
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
            {
                "model": describe_model(self.model),
                **self.description,
                "training": {"step": self.step, "steps": self.steps, "rng": self.rng.state},
            },
        )
        keep_newest(self.output_dir, 2)

    def _check_same_settings(self, folder: Path, saved: Mapping[str, Any]) -> None:
        training = saved.get("training")
        if not isinstance(training, dict):
            raise CheckpointError(f"{folder}: says nothing about training")
        mine = json.loads(
            json.dumps({"model": describe_model(self.model), **self.description, "steps": self.steps})
        )
        theirs = {**saved, "steps": training.get("steps")}
        different = [
            f"{key} was {theirs.get(key)!r}, now {mine[key]!r}"
            for key in mine
            if theirs.get(key) != mine[key]
        ]
        if different:
            raise CheckpointError(
                f"{self.output_dir} holds a run with other settings ({'; '.join(different)}). Use the same "
                "settings to go on, another --output-dir, or --restart to delete that run"
            )

    def _forget_metrics_after(self, step: int) -> None:
        path = self.output_dir / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        with atomic_path(path) as unfinished:
            unfinished.write_text("".join(kept), encoding="utf-8")


def _step_of(line: str) -> float:
    """The step that a line of metrics tells of; infinity if the disk was full before its end."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (KeyError, TypeError, ValueError):
        return math.inf


@contextmanager
def _interrupt_at_step_end() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that the loop looks at between steps; the second one interrupts.

    Signals reach the main thread only; elsewhere Ctrl-C stays what it is. So it does where it is ignored, as a shell
    tells the programs to do that it starts in the background.
    """
    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield event
        return

    def handler(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)
        with suppress(
            OSError, RuntimeError, ValueError
        ):  # in the middle of another print, or nobody reads it
            print("\ninterrupted: saving a checkpoint (Ctrl-C again to stop at once)", file=sys.stderr)

    signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
