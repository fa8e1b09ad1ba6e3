"""Draws, guidance and the loss, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.autodiff import Parameter, value_and_grad
from minidiff.backend import Backend
from minidiff.diffusion import (
    PREDICTION_TYPES,
    NoiseSchedule,
    classifier_free_guidance,
    diffusion_loss,
    drop_labels,
    min_snr_weight,
    noise_like,
    sample_timesteps,
    target,
)
from minidiff.random import Generator

T = 1000
SHAPE = (4, 3, 5, 6)


def images(seed: int, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# --- draws


@pytest.mark.parametrize(("n", "total"), [(1, 10), (7, 1000), (64, 1000), (50, 20)])
def test_stratified_timesteps_are_even_in_a_batch_and_likely_alike(
    backend: Backend, n: int, total: int
) -> None:
    rng = Generator(3, backend)
    batches = np.stack(
        [
            backend.to_numpy(sample_timesteps(rng, n, total, stratified=True))
            for _ in range(4 * total // n + 40)
        ]
    )
    assert batches.dtype == np.int64
    assert batches.min() >= 0
    assert batches.max() < total
    gaps = np.diff(np.sort(batches, axis=1), axis=1)
    assert ((gaps == total // n) | (gaps == -(-total // n))).all()
    first = batches[:, 0]  # one place in the batch meets all timesteps
    assert abs(first.mean() / total - 0.5) < 4 * np.sqrt(1 / 12 / len(first))
    assert len(set(first.tolist())) > min(total, len(first)) / 2


def test_timesteps_are_uniform(backend: Backend) -> None:
    t = backend.to_numpy(sample_timesteps(Generator(3, backend), 20000, 10))
    assert t.dtype == np.int64
    counts = np.bincount(t, minlength=10)
    assert counts.shape == (10,)
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi squared, 9 degrees of freedom, p = 0.001


def test_noise_on_another_device_is_an_error(backend: Backend) -> None:
    if backend.device == "cpu":
        pytest.skip("needs a second library")
    with pytest.raises(
        TypeError, match=rf"draws on 'cpu'.*images are on '{backend.device}'.*Generator\(seed"
    ):
        noise_like(Generator(0), backend.from_numpy(images(0)))


def test_labels_are_dropped_with_their_probability(backend: Backend) -> None:
    labels = backend.from_numpy(np.arange(20000) % 10)
    dropped = backend.to_numpy(drop_labels(Generator(0, backend), labels, 10, 0.1))
    assert dropped.dtype == np.int64
    kept = dropped != 10
    np.testing.assert_array_equal(dropped[kept], (np.arange(20000) % 10)[kept])
    assert abs((~kept).mean() - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 20000)
    assert (backend.to_numpy(drop_labels(Generator(0, backend), labels, 10, 1.0)) == 10).all()
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        drop_labels(Generator(0, backend), labels, 10, 1.5)


# --- guidance


def recorded_model(calls: list[Any]) -> Any:
    """Its output is the label, so that guidance can be read off it."""

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        calls.append((x, t, labels))
        return ops.zeros_like(x) + ops.reshape(ops.astype(labels, x.dtype), (-1, 1, 1, 1))

    return model


@pytest.mark.parametrize(("scale", "batch"), [(0, 4), (1, 4), (2.0, 8), (7.5, 8), (-1, 8)])
def test_guidance(backend: Backend, scale: float, batch: int) -> None:
    calls: list[Any] = []
    labels = np.array([0, 1, 2, 3])
    denoise = classifier_free_guidance(recorded_model(calls), backend.from_numpy(labels), 10, scale)
    x, t = backend.from_numpy(images(0)), backend.from_numpy(np.array([7, 7, 7, 7]))
    y = backend.to_numpy(denoise(x, t))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[:, 0, 0, 0], 10 + scale * (labels - 10), rtol=1e-6)
    assert len(calls) == 1
    assert [c.shape[0] for c in calls[0]] == [batch] * 3
    np.testing.assert_array_equal(backend.to_numpy(calls[0][0])[-4:], images(0))
    assert backend.to_numpy(calls[0][2]).dtype == np.int64


@pytest.mark.parametrize("scale", [1, 3])
def test_guidance_needs_a_label_per_image(scale: float) -> None:
    denoise = classifier_free_guidance(recorded_model([]), np.array([1, 2]), 10, scale)
    with pytest.raises(ValueError, match="2 labels for 4 images"):
        denoise(images(0), np.array([7, 7, 7, 7]))


# --- the loss


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_loss_is_the_weighted_squared_error(backend: Backend, kind: str, gamma: float | None) -> None:
    """The draws are made again here, and the loss computed in float64."""
    schedule, seen = NoiseSchedule(beta_schedule="cosine"), []

    def model(x: Any, t: Any) -> Any:
        seen.append((backend.to_numpy(x), backend.to_numpy(t)))
        return x * 0.5

    loss = diffusion_loss(
        model,
        backend.from_numpy(images(0)),
        schedule=schedule,
        prediction_type=kind,
        rng=Generator(5, backend),
        min_snr_gamma=gamma,
    )
    rng = Generator(5)
    t, noise, x0 = (
        sample_timesteps(rng, 4, T),
        rng.normal(SHAPE).astype(np.float64),
        images(0).astype(np.float64),
    )
    x_t = schedule.add_noise(x0, noise, t)
    np.testing.assert_array_equal(seen[0][1], t)
    np.testing.assert_allclose(seen[0][0], x_t, rtol=1e-5, atol=1e-6)
    wanted = target(kind, x0, noise, schedule.alpha(t, x0), schedule.sigma(t, x0))
    weight = 1.0 if gamma is None else min_snr_weight(kind, schedule.snr(t, x0), gamma)
    assert loss.shape == ()
    assert str(loss.dtype).endswith("float32")
    assert float(loss) == pytest.approx(np.mean(weight * (0.5 * x_t - wanted) ** 2), rel=1e-5)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_loss_of_a_model_that_knows_the_answer_is_zero(kind: str) -> None:
    schedule, x0 = NoiseSchedule(), images(0)

    def model(x_t: Any, t: Any) -> Any:
        alpha, sigma = schedule.alpha(t, x0), schedule.sigma(t, x0)
        return target(kind, x0, (x_t - alpha * x0) / sigma, alpha, sigma)

    loss = diffusion_loss(model, x0, schedule=schedule, prediction_type=kind, rng=Generator(1))
    assert float(loss) < 1e-8


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_loss_is_recorded(backend: Backend, gamma: float | None) -> None:
    """d/dw mean((w x - y)^2) = 2 mean((w x - y) x) in central differences."""
    x0 = backend.from_numpy(images(0, dtype="float64"))
    w = Parameter(backend.from_numpy(np.asarray([0.3])))

    def loss() -> Any:
        return diffusion_loss(
            lambda x, _: w * x,
            x0,
            schedule=NoiseSchedule(),
            prediction_type="v_prediction",
            rng=Generator(2, backend),
            min_snr_gamma=gamma,
        )

    _, grads = value_and_grad(loss, {"w": w})()
    around = []
    for value in (0.3 + 1e-4, 0.3 - 1e-4):
        w.data = backend.from_numpy(np.asarray([value]))
        around.append(float(loss()))
    assert float(grads["w"][0]) == pytest.approx((around[0] - around[1]) / 2e-4, rel=1e-7)


def test_loss_passes_labels_and_drops_them() -> None:
    seen: list[Any] = []

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        seen.append(labels)
        return x

    common: dict[str, Any] = {"schedule": NoiseSchedule(), "prediction_type": "epsilon"}
    labels = np.arange(400) % 10
    x0 = images(0, (400, 1, 2, 2))
    diffusion_loss(model, x0, rng=Generator(0), labels=labels, **common)
    np.testing.assert_array_equal(seen.pop(), labels)
    diffusion_loss(model, x0, rng=Generator(0), labels=labels, null_label=10, null_probability=0.2, **common)
    assert 40 < (seen.pop() == 10).sum() < 120
    with pytest.raises(ValueError, match=r"null_probability=0\.1 needs labels and a null_label.*no labels"):
        diffusion_loss(model, x0, rng=Generator(0), null_label=10, null_probability=0.1, **common)
    with pytest.raises(ValueError, match="got null_label=None"):
        diffusion_loss(model, x0, rng=Generator(0), labels=labels, null_probability=0.1, **common)


def test_loss_refuses_a_prediction_type_before_it_runs_the_model() -> None:
    def model(*_: Any) -> Any:
        raise AssertionError("the model ran")

    with pytest.raises(ValueError, match="prediction_type must be one of"):
        diffusion_loss(model, images(0), schedule=NoiseSchedule(), prediction_type="x0", rng=Generator(0))
