"""A network that is perfect for Gaussian images, with or without two correlated rows, so that every answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidiff.backend import backend_of
from minidiff.diffusion import DDIM, NoiseSchedule, Sampler
from minidiff.pipelines import Pipeline

STD = 0.4  # of every pixel
SHAPE = (1, 4, 4)


class GaussianDenoiser:
    """Says the noise in images whose columns are two pixels of standard deviation STD and this correlation.

    Parameters
    ----------
    schedule : NoiseSchedule
    correlation : float
        0 for images of any height.
    """

    def __init__(self, schedule: NoiseSchedule, correlation: float = 0.0) -> None:
        self.schedule = schedule
        self.covariance = STD**2 * np.array([[1, correlation], [correlation, 1]]) if correlation else STD**2

    def __call__(self, x: Any, t: Any) -> Any:
        """The noise in x, which is seen as in training: divided by sqrt(alpha^2 + sigma^2)."""
        backend = backend_of(x)
        host, time = backend.to_numpy(x).astype(np.float64), float(backend.to_numpy(t)[0])
        ratio = float(np.interp(time, np.arange(len(self.schedule.ratios)), self.schedule.ratios))
        alpha = 1 / math.sqrt(1 + ratio**2)
        sigma = ratio * alpha
        if np.ndim(self.covariance):
            total = alpha**2 * self.covariance + sigma**2 * np.eye(2)
            x0 = alpha * self.covariance @ np.linalg.inv(total) @ host
        else:
            x0 = alpha * self.covariance / (alpha**2 * self.covariance + sigma**2) * host
        return backend.from_numpy(((host - alpha * x0) / sigma).astype(np.float32))


def gaussian(
    sampler: Sampler | None = None, shape: tuple[int, int, int] = SHAPE, correlation: float = 0.0
) -> Pipeline:
    """A pipeline that is perfect for such images."""
    chosen: Any = DDIM(clip_sample=False) if sampler is None else sampler
    return Pipeline(GaussianDenoiser(chosen.schedule, correlation), chosen, shape)


def pictures(count: int = 2, shape: tuple[int, int, int] = SHAPE) -> np.ndarray[Any, Any]:
    """Gaussian images, clipped to [-1, 1]."""
    return np.clip(STD * np.random.default_rng(0).normal(size=(count, *shape)), -1, 1).astype(np.float32)


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Both tolerances."""
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)
