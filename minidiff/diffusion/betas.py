"""Beta schedules by name: the variance of the noise that each timestep adds, beta_0 ... beta_{T-1}."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["BETA_SCHEDULES", "zero_terminal_snr"]

Floats = NDArray[np.float64]


def _linear(steps: int, start: float, end: float) -> Floats:
    return np.linspace(start, end, steps)


def _scaled_linear(steps: int, start: float, end: float) -> Floats:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


def _sigmoid(steps: int, start: float, end: float) -> Floats:
    return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps)))


def _cosine(t: Floats) -> Floats:
    bar: Floats = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return bar


def _laplace(t: Floats) -> Floats:
    snr = np.exp(-0.5 * np.copysign(1, 0.5 - t) * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6))
    bar: Floats = np.sqrt(snr / (1 + snr))
    return bar


def _exponential(t: Floats) -> Floats:
    bar: Floats = np.exp(-12.0 * t)
    return bar


def _along(bar: Callable[[Floats], Floats]) -> Callable[[int, float, float], Floats]:
    """The betas that follow a curve alpha_bar of t in [0, 1]; none is above 0.999."""

    def betas(steps: int, start: float, end: float) -> Floats:
        alpha_bar = bar(np.arange(steps + 1) / steps)
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)

    return betas


BETA_SCHEDULES: dict[str, Callable[[int, float, float], Floats]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "quadratic": _scaled_linear,
    "cosine": _along(_cosine),
    "squaredcos_cap_v2": _along(_cosine),
    "sigmoid": _sigmoid,
    "laplace": _along(_laplace),
    "exp": _along(_exponential),
}


def zero_terminal_snr(betas: Floats) -> Floats:
    """The betas, rescaled so that nothing is left of the image at the last timestep (algorithm 1 of [1]_).

    sqrt(alpha_bar) is shifted until its last value is 0, and stretched so that its first is what it was.

    Parameters
    ----------
    betas : (T,) float64 NumPy array, T at least 2

    References
    ----------
    .. [1] Lin, Liu, Li, Yang, "Common diffusion noise schedules and sample steps are flawed", 2023,
       arXiv:2305.08891.
    """
    root = np.sqrt(np.cumprod(1 - betas))
    bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    rescaled: Floats = 1 - bar / np.concatenate([[1.0], bar[:-1]])
    return rescaled
