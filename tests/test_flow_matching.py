"""Flow matching's times, paths and loss, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.diffusion import FlowMatching
from minidiff.diffusion.flow import logit_normal_times, shift_times, uniform_times
from minidiff.random import Generator
from tests.normal_images import SHAPE, column, images


def test_times(backend: Backend) -> None:
    n, rng = 20_000, Generator(1, backend)
    uniform = backend.to_numpy(uniform_times(rng, n))
    assert abs(uniform.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    t = backend.to_numpy(logit_normal_times(rng, n, mean=0.5, std=0.7)).astype(np.float64)
    logits = np.log(t / (1 - t))
    assert logits.mean() == pytest.approx(0.5, abs=4 * 0.7 / math.sqrt(n))
    assert logits.std() == pytest.approx(0.7, rel=0.02)


def test_shift_keeps_the_signal_that_is_left() -> None:
    """Equation 23 follows from t / (1 - t) growing by the shift; the ends stay."""
    t = np.linspace(0.01, 0.99, 50)
    shifted = shift_times(t, 3.0)
    np.testing.assert_allclose(shifted / (1 - shifted), 3 * t / (1 - t), rtol=1e-12)
    assert [shift_times(x, 3.0) for x in (0.0, 1.0)] == [0.0, 1.0]


def test_flow_loss_is_the_error_of_the_velocity(backend: Backend) -> None:
    flow, seen = FlowMatching(shift=2.0, times="uniform"), []

    def model(x: Any, t: Any) -> Any:
        seen.append((backend.to_numpy(x), backend.to_numpy(t)))
        return 0.5 * x

    loss = flow.loss(model, backend.from_numpy(images(0)), Generator(5, backend))
    rng, x0 = Generator(5), images(0).astype(np.float64)
    t = shift_times(rng.uniform((4,)).astype(np.float64), 2.0)
    noise = rng.normal(SHAPE)
    x = (1 - column(t)) * x0 + column(t) * noise
    np.testing.assert_allclose(seen[0][0], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen[0][1], 1000 * t, rtol=1e-6)
    assert float(loss) == pytest.approx(np.mean((0.5 * x - (noise - x0)) ** 2), rel=1e-5)


def test_the_velocity_leads_from_noise_to_the_image(backend: Backend) -> None:
    flow, x0, noise = FlowMatching(), backend.from_numpy(images(0)), backend.from_numpy(images(1))
    t = backend.from_numpy(np.float32([0.1, 0.4, 0.9, 1.0]))
    x = backend.to_numpy(flow.add_noise(x0, noise, t))
    np.testing.assert_allclose(
        x - column([0.1, 0.4, 0.9, 1.0]) * (images(1) - images(0)), images(0), atol=1e-6
    )


def test_what_flow_matching_refuses() -> None:
    with pytest.raises(ValueError, match=r"times must be one of \['uniform', 'logit_normal'\], got 'cosine'"):
        FlowMatching(times="cosine")
    with pytest.raises(ValueError, match="shift must be above 0"):
        FlowMatching(shift=0.0)
