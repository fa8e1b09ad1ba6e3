"""Sampling and training with functions that CUDA captures: the numbers are those of the functions as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, Parameter, checkpoint, nn, ops, value_and_grad
from minidiff.backend import Backend, get_backend, register_backend
from minidiff.data import load_digits
from minidiff.diffusion import DDIM, DDPM, GaussianDiffusion, NoiseSchedule, classifier_free_guidance, sample
from minidiff.loss_and_gradients import LossAndGradients
from minidiff.models import UNet
from minidiff.optim import EMA, Adam
from minidiff.training import Trainer
from tests.simt.graphs import Tape, normal, same

# --- sampling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("method", [DDIM, DDPM])
def test_samples_are_those_of_the_network_as_it_is(
    compiled: Backend, tapes: list[Tape], method: Any, guidance: float
) -> None:
    model = UNet(1, 2, 1, num_classes=3, rng=Generator(0, compiled))
    calls: list[Any] = []

    def network(x: Any, t: Any, *, labels: Any) -> Any:
        calls.append(t)
        return model(x, t, labels=labels)

    def draw(backend: Backend) -> list[Any]:
        seen: list[Any] = []
        labels = backend.from_numpy(np.asarray([2, 0]))
        denoise = classifier_free_guidance(network, labels, 3, guidance)
        x = sample(
            denoise,
            (2, 1, 4, 4),
            method(prediction_type="sample", clip_sample=False),
            steps=5,
            rng=Generator(7, backend),
            callback=lambda i, t, x, x0: seen.extend((x, x0)),
        )
        return [*map(backend.to_numpy, (*seen, x))]

    expected, fast = uncompiled(draw), draw(compiled)
    assert len(expected) == len(fast) == 11
    for mine, other in zip(fast, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert len(calls) == 5 + 2
    assert [tape.played for tape in tapes] == [4]


def uncompiled(draw: Callable[[Backend], Any]) -> Any:
    """What `draw` returns where `compile` is the identity."""
    compiled = get_backend("simt")
    plain = dataclasses.replace(compiled, compile=lambda fn: fn)
    register_backend(plain)
    try:
        return draw(plain)
    finally:
        register_backend(compiled)


def test_weights_may_change_between_drawings(compiled: Backend) -> None:
    weight = Parameter(normal(compiled, 0, 4, 4))

    def draw() -> Any:
        return sample(
            lambda x, t: ops.linear(x, weight, None),
            (2, 1, 4, 4),
            DDIM(),
            steps=4,
            rng=Generator(3, compiled),
        )

    before = draw()
    weight.data = normal(compiled, 1, 4, 4)
    assert (compiled.to_numpy(before) != compiled.to_numpy(draw())).any()
    weight.data = normal(compiled, 0, 4, 4)
    same(compiled, before, draw())


# --- training --------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A network with all that draws at random, and a part that is computed twice."""

    def __init__(self, rng: Generator) -> None:
        self.first = nn.Conv2d(1, 4, 3, padding=1, rng=rng)
        self.label = nn.Embedding(11, 4, rng=rng)
        self.last = nn.Conv2d(4, 1, 1, rng=rng)
        self.config = {"dropout": 0.25}

    def __call__(self, x: Any, t: Any, *, labels: Any, rng: Generator) -> Any:
        def middle(h: Any) -> Any:
            return ops.dropout(ops.silu(self.first(h)), 0.25, rng=rng)

        h = checkpoint(middle)(x)
        return self.last(ops.add(h, ops.reshape(self.label(labels), (*labels.shape, 4, 1, 1))))


def small_trainer(folder: Path, backend: Backend, **options: Any) -> Trainer:
    rng = Generator(5, backend)
    model = Small(rng)
    diffusion = GaussianDiffusion(
        NoiseSchedule(beta_schedule="cosine"),
        prediction_type="v_prediction",
        null_probability=0.5,
        stratified=True,
        min_snr_gamma=5.0,
    )

    def loss(network: Any, x: Any, labels: Any, noise: Generator) -> Any:
        return diffusion.loss(network, x, noise, labels=labels, null_label=10)

    arguments: dict[str, Any] = {
        "model": model,
        "loss": loss,
        "dataset": load_digits(),
        "optimizer": Adam(model, lr=1e-2),
        "ema": EMA(model, decay=0.5),
        "rng": rng,
        "output_dir": folder,
        "description": {},
        "steps": 7,
        "batch_size": 3,
        "checkpoint_every": 5,
    }
    return Trainer(**{**arguments, **options})


def test_a_step_is_the_loss_and_its_gradient(compiled: Backend, tapes: list[Tape]) -> None:
    rng, other = Generator(5, compiled), Generator(0, compiled)
    model = Small(rng)
    other.state = rng.state

    def loss(network: Any, x: Any, labels: Any, noise: Generator) -> Any:
        return ops.mse_loss(network(x, None, labels=labels, rng=noise), noise.normal(tuple(x.shape)))

    step = LossAndGradients(model, loss, rng)
    for seed in range(4):
        x, labels = normal(compiled, seed, 2, 1, 4, 4), compiled.from_numpy(np.asarray([seed, 10]))
        weights = {name: p.data for name, p in model.parameters().items()}
        value, grads = step(x, labels)
        assert all(p.data is weights[name] for name, p in model.parameters().items())
        expected, slopes = value_and_grad(loss, model)(model, x, labels, other)
        same(compiled, value, expected)
        for name, slope in slopes.items():
            same(compiled, grads[name], slope)
        assert rng.state == other.state
    assert [tape.played for tape in tapes] == [2]


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints take any model."""
    monkeypatch.setattr("minidiff.training.describe_model", lambda model: model.config)


def state(trainer: Trainer) -> dict[str, Any]:
    arrays = {**trainer.model.state_dict(), **{f"ema.{k}": v for k, v in trainer.ema.averaged.items()}}
    return {**trainer.rng.state, **{name: trainer.rng.backend.to_numpy(x) for name, x in arrays.items()}}


def test_training_ends_with_the_same_bits(
    compiled: Backend, tapes: list[Tape], tmp_path: Path, described: None
) -> None:
    def train(backend: Backend, folder: str, **options: Any) -> dict[str, Any]:
        run = small_trainer(tmp_path / folder, backend, **options)
        run.resume()
        run.run()
        return state(run)

    expected = uncompiled(lambda plain: train(plain, "plain"))
    drawn: list[int] = []
    whole = train(compiled, "whole", on_sample=drawn.append, sample_every=2)  # with the averages swapped in
    np.testing.assert_equal(whole, expected)
    assert drawn == [2, 4, 6, 7]
    assert [tape.played for tape in tapes] == [5]  # the first step finds out what is drawn, the second runs
    for folder in (tmp_path / "whole" / "checkpoints").glob("*7"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    np.testing.assert_equal(train(compiled, "whole"), expected)


def test_numbers_drawn_ahead_are_those_drawn_inside(
    backend: Backend, tmp_path: Path, described: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = small_trainer(tmp_path / "ahead", backend)
    ahead.run()
    monkeypatch.setattr("minidiff.loss_and_gradients._Ahead.draw", lambda self, draws: {})
    inside = small_trainer(tmp_path / "inside", backend)
    inside.run()
    np.testing.assert_equal(state(ahead), state(inside))
