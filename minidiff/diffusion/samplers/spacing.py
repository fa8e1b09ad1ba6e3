"""Which noise levels a sampler visits: timesteps, spread over those of training, or sigmas along a curve.

Tables of functions of numbers; sigmas here are ratios sigma / alpha. Descending, float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.diffusion.samplers.beta_quantile import beta_quantile

__all__ = [
    "SIGMA_FAMILIES",
    "SPACINGS",
    "descends",
    "family_of",
    "karras",
    "spaced",
    "timestep_of",
    "whole",
]

Floats = NDArray[np.float64]

SPACINGS: dict[str, Callable[[int, int], Floats]] = {  # of (T, n)
    "leading": lambda T, n: np.arange(n, dtype=np.float64)[::-1] * (T // n),
    "trailing": lambda T, n: np.round(np.arange(T, 0, -T / n))[:n] - 1,  # rounding may make it n + 1 long
    "linspace": lambda T, n: np.linspace(0, T - 1, n)[::-1],
}


def spaced(spacing: str, total: int, n: int, offset: int = 0) -> Floats:
    """N of the timesteps 0 ... T - 1, descending (table 2 of [1]_).

    Parameters
    ----------
    spacing : "leading", "trailing" or "linspace"
        T // n apart from 0 up; T / n apart from T - 1 down, rounded; or evenly from T - 1 to 0, not rounded.
    total, n : int
        T and n.
    offset : int
        Added to every timestep of "leading".

    Raises
    ------
    ValueError
        If n is not from 1 to T, no spacing has the name, or the offset leads past the last timestep.

    References
    ----------
    .. [1] Lin, Liu, Li, Yang, "Common diffusion noise schedules and sample steps are flawed", 2023,
       arXiv:2305.08891.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"timestep_spacing must be one of {list(SPACINGS)}, got {spacing!r}")
    if not 1 <= n <= total:
        raise ValueError(f"{n} steps are not from 1 to the {total} timesteps of training")
    timesteps = SPACINGS[spacing](total, n) + (offset if spacing == "leading" else 0)
    if timesteps[0] >= total:
        raise ValueError(
            f"with steps_offset={offset}, {n} steps begin at timestep {timesteps[0]:.0f}, past the last one, "
            f"{total - 1}; take fewer steps or no offset"
        )
    return timesteps


def descends(numbers: Floats) -> bool:
    """Whether these are numbers, at least one, each below the one before."""
    return numbers.ndim == 1 and numbers.size > 0 and bool((np.diff(numbers) < 0).all())


def whole(timesteps: Floats) -> list[int]:
    """Timesteps, rounded."""
    return [int(t) for t in np.round(timesteps)]


def _karras(low: float, high: float, n: int, rho: float = 7.0) -> Floats:
    ramp = np.linspace(0, 1, n)
    sigmas: Floats = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return sigmas


def _exponential(low: float, high: float, n: int) -> Floats:
    return np.exp(np.linspace(np.log(high), np.log(low), n))


def _beta(low: float, high: float, n: int) -> Floats:
    return low + beta_quantile(1 - np.linspace(0, 1, n), 0.6) * (high - low)


SIGMA_FAMILIES: dict[str, Callable[[float, float, int], Floats]] = {  # of (lowest, highest, n)
    "karras": _karras,  # arXiv:2206.00364, eq. 5
    "exponential": _exponential,
    "beta": _beta,  # arXiv:2407.12173
    "lambda": _exponential,  # evenly spaced in log(alpha / sigma), arXiv:2206.00927
}


FAMILY_OPTIONS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "lambda",
}


def family_of(options: Any) -> str | None:
    """Which of SIGMA_FAMILIES these options of a sampler ask for, if any.

    Raises
    ------
    ValueError
        If they ask for two.
    """
    chosen = [option for option in FAMILY_OPTIONS if getattr(options, option, False)]
    if len(chosen) > 1:
        raise ValueError(f"{type(options).__name__}: only one of {chosen} can be used")
    return FAMILY_OPTIONS[chosen[0]] if chosen else None


def karras(rho: float) -> Callable[[float, float, int], Floats]:
    """The family of eq. 5 of arXiv:2206.00364 for another rho than 7."""
    return partial(_karras, rho=rho)


def timestep_of(sigmas: Floats, ratios: Floats) -> Floats:
    """The timesteps that have these noise levels, interpolated in log sigma.

    Parameters
    ----------
    sigmas : (n,) NumPy array
    ratios : (T,) NumPy array
        Those of training, growing: `NoiseSchedule.ratios`.
    """
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(ratios), np.arange(len(ratios)))
