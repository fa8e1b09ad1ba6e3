"""Importance sampling of timesteps: unbiased, and of less variance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.autodiff import Parameter, value_and_grad
from minidiff.backend import Backend
from minidiff.diffusion import LossSecondMoment, NoiseSchedule, VariationalBound
from minidiff.random import Generator


def full(losses: Any, **options: Any) -> LossSecondMoment:
    resampler = LossSecondMoment(len(losses), **options)
    for _ in range(options.get("history", 10)):
        resampler.update(np.arange(len(losses)), np.asarray(losses))
    return resampler


def test_importance_sampling_is_unbiased_and_varies_less(backend: Backend) -> None:
    losses = np.array([50.0, 5.0, 1.0, 0.5, 0.5, 0.2, 0.1, 0.1])
    resampler = full(losses)
    np.testing.assert_allclose(resampler.probabilities, 0.999 * losses / losses.sum() + 0.001 / 8, rtol=1e-12)
    t, weights = (backend.to_numpy(x) for x in resampler.sample(Generator(0, backend), 20_000))
    assert t.dtype == np.int64
    assert weights.dtype == np.float32
    estimates = weights * losses[t]
    assert estimates.mean() == pytest.approx(losses.mean(), abs=4 * estimates.std() / math.sqrt(20_000))
    assert estimates.std() < 0.1 * losses.std()
    shares = np.bincount(t, minlength=8) / 20_000
    np.testing.assert_allclose(shares, resampler.probabilities, atol=4 * 0.5 / math.sqrt(20_000))


def test_before_every_timestep_has_a_history_all_are_drawn_alike() -> None:
    resampler = LossSecondMoment(3, history=2)
    resampler.update(np.array([0, 0, 1, 1, 2]), np.array([9.0, 9.0, 1.0, 1.0, 1.0]))
    np.testing.assert_array_equal(resampler.probabilities, [1 / 3] * 3)
    t, weights = resampler.sample(Generator(0), 300)
    assert set(t.tolist()) == {0, 1, 2}
    np.testing.assert_allclose(weights, 1, rtol=1e-6)
    resampler.update(np.array([2]), np.array([1.0]))
    assert resampler.probabilities[0] > 0.8


def test_old_losses_are_forgotten_and_state_is_kept() -> None:
    resampler = full([8.0, 1.0], history=2)
    again = LossSecondMoment(2, history=2)
    again.load_state_dict(resampler.state_dict())
    for one in (resampler, again):
        one.update(np.array([0]), np.array([0.0]))
        assert one._losses[0].tolist() == [0.0, 8.0]
        one.update(np.array([0]), np.array([1.0]))
        assert one._losses[0].tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"expected losses of shape \(3, 2\), got \(2, 2\)"):
        LossSecondMoment(3, history=2).load_state_dict(resampler.state_dict())


def test_a_resampler_takes_what_a_recording_computes(backend: Backend) -> None:
    resampler, w = LossSecondMoment(40, history=1), Parameter(backend.from_numpy(np.asarray([0.1])))
    bound = VariationalBound(
        NoiseSchedule(40), prediction_type="sample", objective="vlb", variance_type="fixed_large"
    )
    x0, rng = (
        backend.from_numpy(0.3 * np.random.default_rng(0).normal(size=(5, 1, 4, 4))),
        Generator(0, backend),
    )

    def loss() -> Any:
        t, weights = resampler.sample(rng, 5)
        losses = bound.losses(lambda x, _: w * x, x0, t, rng)
        resampler.update(t, losses)
        return ops.mean(losses * ops.astype(weights, x0.dtype))

    value, _ = value_and_grad(loss, {"w": w})()
    assert resampler.state_dict()["counts"].sum() == 5
    assert math.isfinite(float(value))


def test_what_a_resampler_refuses() -> None:
    resampler = LossSecondMoment(3)
    with pytest.raises(ValueError, match="a loss is nan"):
        resampler.update(np.array([0]), np.array([float("nan")]))
    with pytest.raises(ValueError, match=r"\(2,\) timesteps for losses of shape \(1,\)"):
        resampler.update(np.array([0, 1]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"got 0, 10 and 0\.001"):
        LossSecondMoment(0)
