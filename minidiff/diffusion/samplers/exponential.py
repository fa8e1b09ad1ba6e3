"""Exponential integrators: what DPM-Solver, UniPC and DEIS have in common.

Over lambda = log(alpha / sigma) the linear part of the diffusion ODE is solved exactly. What is left is an integral of
what the network predicts, m, against an exponential: from a point s to a point t, with h = lambda_t - lambda_s,

    x_t = scale x_s + integral over u from 0 to h of amplitude e^(rate (h - u)) m(lambda_s + u) du + spread z.

A solver puts in place of m the polynomial through the values that it has, so that x_t is a weighted sum of them and
x_s. The papers differ in what m is (`FORMULATIONS`), in where the values are taken, and in a shortcut for the line
through two of them (`LINES`). Everything here is float64 on the host.

References
----------
.. [1] Lu et al., "DPM-Solver: A fast ODE solver for diffusion probabilistic model sampling in around 10 steps", 2022,
   arXiv:2206.00927.
.. [2] Lu et al., "DPM-Solver++: Fast solver for guided sampling of diffusion probabilistic models", 2022,
   arXiv:2211.01095.
.. [3] Hochbruck, Ostermann, "Exponential integrators", Acta Numerica 19, 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidiff.diffusion.points import Point

__all__ = ["FORMULATIONS", "LINES", "Formulation", "Line", "weights"]

Line = Callable[["Formulation", Point, Point], float]


@dataclass(frozen=True)
class Formulation:
    """The exact solution from a point s to a point t, up to the integral.

    Parameters
    ----------
    of_noise : bool
        m is the predicted noise; otherwise the predicted x_0.
    rate : float
    amplitude : callable (t) -> float
    scale : callable (s, t) -> float
        The factor of x_s.
    area : callable (s, t) -> float
        The integral where m = 1. Unlike (e^(rate h) - 1) amplitude / rate, it has a value where h is infinite.
    spread : callable (s, t) -> float, optional
        Standard deviation of the noise that an SDE adds.
    """

    of_noise: bool
    rate: float
    amplitude: Callable[[Point], float]
    scale: Callable[[Point, Point], float]
    area: Callable[[Point, Point], float]
    spread: Callable[[Point, Point], float] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Be one of `FORMULATIONS` in copies and other processes, too: no pickle holds functions without a name."""
        return _formulation, (next(name for name, f in FORMULATIONS.items() if f is self),)


def _formulation(name: str) -> Formulation:
    return FORMULATIONS[name]


def _decay(s: Point, t: Point) -> float:
    """e^-h."""
    return s.alpha * t.sigma / (s.sigma * t.alpha)


FORMULATIONS = {
    "dpmsolver": Formulation(  # proposition 3.1 of [1]
        of_noise=True,
        rate=1,
        amplitude=lambda t: -t.sigma,
        scale=lambda s, t: t.alpha / s.alpha,
        area=lambda s, t: t.sigma - s.sigma * t.alpha / s.alpha,
    ),
    "dpmsolver++": Formulation(  # proposition 4.1 of [2]
        of_noise=False,
        rate=-1,
        amplitude=lambda t: t.alpha,
        scale=lambda s, t: t.sigma / s.sigma,
        area=lambda s, t: t.alpha * (1 - _decay(s, t)),
    ),
    "sde-dpmsolver": Formulation(  # section 5 of [2]
        of_noise=True,
        rate=1,
        amplitude=lambda t: -2 * t.sigma,
        scale=lambda s, t: t.alpha / s.alpha,
        area=lambda s, t: 2 * (t.sigma - s.sigma * t.alpha / s.alpha),
        spread=lambda s, t: math.sqrt(max((s.sigma * t.alpha / s.alpha) ** 2 - t.sigma**2, 0.0)),
    ),
    "sde-dpmsolver++": Formulation(  # section 5 of [2]
        of_noise=False,
        rate=-2,
        amplitude=lambda t: 2 * t.alpha,
        scale=lambda s, t: t.sigma / s.sigma * _decay(s, t),
        area=lambda s, t: t.alpha * (1 - _decay(s, t) ** 2),
        spread=lambda s, t: t.sigma * math.sqrt(max(1 - _decay(s, t) ** 2, 0.0)),
    ),
}


def moments(f: Formulation, s: Point, t: Point, n: int) -> list[float]:
    """The integrals where m = u^k, k = 0 ... n - 1: each by parts from the one before."""
    h, result = t.lam - s.lam, [f.area(s, t)]
    for k in range(1, n):
        result.append((k * result[-1] - f.amplitude(t) * h**k) / f.rate)
    return result


def exact_line(f: Formulation, s: Point, t: Point) -> float:
    """The integral where m = u."""
    return moments(f, s, t, 2)[1]


def _middle_line(f: Formulation, s: Point, t: Point) -> float:
    """The same, u taken as constant at the middle of the step."""
    return f.area(s, t) * (t.lam - s.lam) / 2


def _flat_line(f: Formulation, s: Point, t: Point) -> float:
    """The same, the exponential taken as constant at the end of the step."""
    return f.amplitude(t) * (t.lam - s.lam) ** 2 / 2


LINES: dict[str, Line] = {
    "midpoint": _middle_line,
    "heun": exact_line,
    "bh2": _middle_line,
    "bh1": _flat_line,
}


def weights(
    f: Formulation, s: Point, t: Point, points: Sequence[Point], *, line: Line = exact_line, bend: float = 1.0
) -> list[float]:
    """What the values of m at each of the points count in x_t.

    The weights integrate polynomials of a degree below the number of points. Points infinitely far away, with no
    signal left, count nothing, and of several in one place the first counts.

    Parameters
    ----------
    f : Formulation
    s, t : Point
        Where the step begins and ends.
    points : sequence of Point
        One of them is `s`.
    line : callable
        One of `LINES`, in place of the integral of u where there are two points.
    bend : float
        A factor of the integral of u^2 where there are three points.

    Raises
    ------
    ValueError
        If several values are to be combined and t has no noise: lambda is infinite there.
    """
    offsets = [p.lam - s.lam if p != s else 0.0 for p in points]
    used = [i for i, u in enumerate(offsets) if math.isfinite(u) and u not in offsets[:i]]
    if len(used) > 1 and math.isinf(t.lam):
        raise ValueError(
            f"a step of order {len(used)} cannot end at sigma = 0, where log(alpha / sigma) is infinite: "
            "choose final_sigmas_type='sigma_min', or lower_order_final=True"
        )
    integrals = moments(f, s, t, len(used))
    if len(used) == 2:
        integrals[1] = line(f, s, t)
    elif len(used) == 3:
        integrals[2] *= bend
    powers = np.vander([offsets[i] for i in used], increasing=True).T
    solved = dict(zip(used, np.linalg.solve(powers, integrals).tolist(), strict=True))
    return [solved.get(i, 0.0) for i in range(len(points))]
