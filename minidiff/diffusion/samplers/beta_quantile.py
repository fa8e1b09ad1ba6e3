"""The quantile function of a symmetric beta distribution, for sampling at beta-distributed noise levels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["beta_quantile"]

Floats = NDArray[np.float64]


def beta_quantile(q: Floats, a: float) -> Floats:
    """The x with I_x(a, a) = q, by halving an interval: exact to about 1e-15.

    Parameters
    ----------
    q : (n,) NumPy array
        Probabilities, from 0 to 1.
    a : float
        Both parameters of the distribution, above 0.
    """
    low, high = np.zeros_like(q), np.ones_like(q)
    for _ in range(60):
        middle = (low + high) / 2
        below = _distribution(middle, a) < q
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(q <= 0, 0.0, np.where(q >= 1, 1.0, (low + high) / 2))


def _distribution(x: Floats, a: float) -> Floats:
    """I_x(a, a): the continued fraction, which converges fast below 1/2, and its mirror image above."""
    lower = np.clip(np.minimum(x, 1 - x), 1e-300, None)
    norm = math.exp(math.lgamma(2 * a) - 2 * math.lgamma(a)) / a
    part: Floats = norm * (lower * (1 - lower)) ** a / _continued_fraction(lower, a)
    return np.where(x <= 0.5, part, 1 - part)


def _continued_fraction(x: Floats, a: float, depth: int = 60) -> Floats:
    """1 + d_1 / (1 + d_2 / (1 + ...)) of eq. 26.5.8 of Abramowitz and Stegun with b = a, from the inside out."""
    value = np.ones_like(x)
    for k in range(depth, 0, -1):
        m = k // 2
        if k % 2:
            d = -(a + m) * (2 * a + m) / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (a - m) / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1 + d * x / value
    return value
