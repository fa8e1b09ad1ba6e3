"""Initial weights: functions `(shape, rng) -> float32 array`, some made with a gain.

The fan-in of weights (O, I, *K) is I times the size of the kernel K, the fan-out O times it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from minidiff.backend import Array
from minidiff.random import Generator

__all__ = [
    "Initializer",
    "fans",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Initializer: TypeAlias = Callable[[tuple[int, ...], Generator], Array]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan-in, fan-out) of weights (O, I, *K).

    Raises
    ------
    ValueError
        If the shape has fewer than two axes.
    """
    if len(shape) < 2:
        raise ValueError(f"weights of shape {shape} have no fan-in: two axes (O, I) at least are needed")
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def zeros(shape: tuple[int, ...], rng: Generator) -> Array:
    """Zeros."""
    return rng.backend.xp.zeros(shape, dtype=rng.backend.xp.float32)


def ones(shape: tuple[int, ...], rng: Generator) -> Array:
    """Ones."""
    return rng.backend.xp.ones(shape, dtype=rng.backend.xp.float32)


def uniform(bound: float) -> Initializer:
    """Uniform in [-bound, bound)."""
    return lambda shape, rng: rng.uniform(shape, low=-bound, high=bound)


def normal(std: float) -> Initializer:
    """Normal with mean 0 and standard deviation `std`."""
    return lambda shape, rng: rng.normal(shape) * std


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform with variance gain^2 * 2 / (fan-in + fan-out) [1]_.

    References
    ----------
    .. [1] Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", AISTATS 2010, equation 16.
    """
    return lambda shape, rng: uniform(gain * math.sqrt(6 / sum(fans(shape))))(shape, rng)


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal with variance gain^2 * 2 / (fan-in + fan-out); see `xavier_uniform`."""
    return lambda shape, rng: normal(gain * math.sqrt(2 / sum(fans(shape))))(shape, rng)


def kaiming_uniform(gain: float = math.sqrt(2)) -> Initializer:
    """Uniform with variance gain^2 / fan-in [1]_; the default gain is for ReLU.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Delving deep into rectifiers", 2015, arXiv:1502.01852, equation 10.
    """
    return lambda shape, rng: uniform(gain * math.sqrt(3 / fans(shape)[0]))(shape, rng)


def kaiming_normal(gain: float = math.sqrt(2)) -> Initializer:
    """Normal with variance gain^2 / fan-in; see `kaiming_uniform`."""
    return lambda shape, rng: normal(gain / math.sqrt(fans(shape)[0]))(shape, rng)
