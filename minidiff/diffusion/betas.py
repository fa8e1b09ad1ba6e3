"""Beta schedules by name: the variance of the noise that each timestep adds, beta_0 ... beta_{T-1}."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["BETA_SCHEDULES"]


def _linear(steps: int, start: float, end: float) -> NDArray[np.float64]:
    return np.linspace(start, end, steps)


def _scaled_linear(steps: int, start: float, end: float) -> NDArray[np.float64]:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


def _cosine(steps: int, start: float, end: float) -> NDArray[np.float64]:
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: NDArray[np.float64] = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return betas


def _sigmoid(steps: int, start: float, end: float) -> NDArray[np.float64]:
    return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))


BETA_SCHEDULES: dict[str, Callable[[int, float, float], NDArray[np.float64]]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "quadratic": _scaled_linear,
    "cosine": _cosine,
    "squaredcos_cap_v2": _cosine,
    "sigmoid": _sigmoid,
}
