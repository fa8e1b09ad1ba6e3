"""Prediction types and their weights, against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.diffusion import (
    PREDICTION_TYPES,
    NoiseSchedule,
    min_snr_weight,
    target,
    to_sample_and_noise,
)

T = 1000
SHAPE = (4, 3, 5, 6)


def images(seed: int, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# --- prediction types


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_target_and_prediction_are_inverse(backend: Backend, kind: str) -> None:
    schedule = NoiseSchedule(beta_schedule="cosine")
    host = images(0, dtype="float64"), images(1, dtype="float64")
    x0, noise = map(backend.from_numpy, host)
    t = backend.from_numpy(np.array([0, 10, 500, 900]))
    alpha, sigma = schedule.alpha(t, x0), schedule.sigma(t, x0)
    y = target(kind, x0, noise, alpha, sigma)
    again = to_sample_and_noise(kind, y, schedule.add_noise(x0, noise, t), alpha, sigma)
    for got, expected in zip(again, host, strict=True):
        np.testing.assert_allclose(backend.to_numpy(got), expected, rtol=1e-9, atol=1e-9)


def test_targets() -> None:
    schedule, x0, noise = NoiseSchedule(), images(0), images(1)
    assert target("epsilon", x0, noise, 0.6, 0.8) is noise
    assert target("sample", x0, noise, 0.6, 0.8) is x0
    v = target("v_prediction", x0, noise, schedule.alpha(7), schedule.sigma(7))
    np.testing.assert_array_equal(v, schedule.get_velocity(x0, noise, 7))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), [(0.6, 0.8), (1.0, 12.5), (0.3, 0.7), (1.0, 0.01)])
def test_every_prediction_works_at_every_point(kind: str, alpha: float, sigma: float) -> None:
    """Variance preserved, image at its full size, or straight lines: image and noise come back."""
    x0, noise = images(0, dtype="float64"), images(1, dtype="float64")
    y = target(kind, x0, noise, alpha, sigma)
    again = to_sample_and_noise(kind, y, alpha * x0 + sigma * noise, alpha, sigma)
    np.testing.assert_allclose(again, [x0, noise], rtol=1e-9, atol=1e-9)


def test_v_does_not_depend_on_the_size_of_the_image() -> None:
    """A network sees x_t at variance 1, whatever size the sampler keeps it at."""
    x0, noise = images(0), images(1)
    np.testing.assert_allclose(
        target("v_prediction", x0, noise, 1.0, 4 / 3), target("v_prediction", x0, noise, 0.6, 0.8), rtol=1e-6
    )


def test_flow_is_the_direction_from_image_to_noise() -> None:
    np.testing.assert_array_equal(
        target("flow_prediction", images(0), images(1), 0.3, 0.7), images(1) - images(0)
    )


def test_unknown_prediction_type() -> None:
    with pytest.raises(ValueError, match=r"'epsilon', 'sample', 'v_prediction'.*got 'noise'"):
        target("noise", images(0), images(1), 0.6, 0.8)


def test_min_snr_weights_are_those_of_the_paper() -> None:
    snr = np.array([0.01, 1.0, 5.0, 20.0, 1000.0])
    clipped = np.array([0.01, 1.0, 5.0, 5.0, 5.0])
    for kind, expected in {
        "epsilon": clipped / snr,
        "sample": clipped,
        "v_prediction": clipped / (snr + 1),
        "flow_prediction": clipped * (1 / (1 + snr**0.5)) ** 2,
    }.items():
        np.testing.assert_allclose(min_snr_weight(kind, snr, 5.0), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="gamma must be above 0, got 0"):
        min_snr_weight("epsilon", snr, 0)


def test_min_snr_weights_where_nothing_is_left_of_the_image() -> None:
    """The limit at a signal-to-noise ratio of 0, the last one with `rescale_betas_zero_snr`: min(snr, 5) / snr is 1."""
    for kind, limit in {"epsilon": 1, "sample": 0, "v_prediction": 0, "flow_prediction": 0}.items():
        assert min_snr_weight(kind, np.zeros(1, np.float32), 5.0)[0] == pytest.approx(limit, abs=1e-12)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_min_snr_weighs_an_error_of_x0_alike_for_every_prediction_type(kind: str) -> None:
    """The same wrong x_0, said as noise, as v or as itself, costs the same."""
    schedule, x0, noise, t = NoiseSchedule(), images(0, dtype="float64"), images(1, dtype="float64"), 300
    alpha, sigma, snr = schedule.alpha(t), schedule.sigma(t), schedule.snr(t)
    x_t, wrong = schedule.add_noise(x0, noise, t), x0 + 0.1
    said = target(kind, wrong, (x_t - alpha * wrong) / sigma, alpha, sigma)
    error = np.mean((said - target(kind, x0, noise, alpha, sigma)) ** 2)
    assert error * min_snr_weight(kind, np.array([snr]), 5.0)[0] == pytest.approx(
        0.01 * min(snr, 5.0), rel=1e-9
    )
