"""Solvers of second order that ask the network twice a step: at its end, or in its middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.points import CLEAN, Point
from minidiff.diffusion.samplers.ddim import towards
from minidiff.diffusion.samplers.discrete import SigmaSampler
from minidiff.diffusion.samplers.euler import down_and_up
from minidiff.diffusion.samplers.sampler import Draw, Step, mix
from minidiff.diffusion.samplers.spacing import timestep_of

__all__ = ["KDPM2", "Heun", "KDPM2Ancestral", "along", "halved", "slope"]


def slope(x: Array, x0: Array, sigma: float) -> Array:
    """Dx / dsigma = (x - x_0) / sigma, eq. 3 of arXiv:2206.00364."""
    return mix((1 / sigma, x), (-1 / sigma, x0))


def along(start: Array, h: float, x: Array, x0: Array, sigma: float, *more: tuple[float, Array]) -> Array:
    """Start + h (x - x_0) / sigma, and more terms."""
    return mix((1.0, start), (h / sigma, x), (-h / sigma, x0), *more)


def halved(ends: Sequence[Point], middles: Sequence[float], ratios: NDArray[np.float64]) -> list[Point]:
    """The points of whole steps, each with the middle of its step; the last step leads to the clean image."""
    times = timestep_of(np.asarray(middles), ratios).astype(np.float32)
    between = [Point(1.0, s, float(t)) for s, t in zip(middles, times, strict=True)]
    return [p for pair in zip(ends, [*between, CLEAN], strict=True) for p in pair]


@dataclass(kw_only=True, eq=False, repr=False)
class Heun(SigmaSampler):
    """Heun's method in sigma: the mean of the slopes at both ends of a step [1]_.

    n steps ask the network 2 n - 1 times, and `timesteps` is as long: the second of two equal timesteps begins a step.

    With few steps "linspace" spoils images of a cosine schedule, whose last sigma is 20,000; "leading" begins at a
    lower one.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Place the sigmas along a curve; see `SIGMA_FAMILIES`.
    clip_sample, clip_sample_range : bool, float
        Limit the predicted clean image to [-clip_sample_range, clip_sample_range].

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364, algorithm 1.
    """

    diffusers_name: ClassVar[str] = "HeunDiscreteScheduler"
    calls_per_step: ClassVar[int] = 2

    beta_start: float = 0.00085
    beta_end: float = 0.012
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        first, *rest, last = super()._points(timesteps)
        return [first, *(p for p in rest for _ in range(2)), last]

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x0 = self._x0(y, x, here)
        if not self.history:
            self.history = [(x, slope(x, x0, here.sigma))]
            return Step(towards(x, x0, here, there), x0)
        before, d = self.history.pop()
        half = (here.sigma - self.points[i - 1].sigma) / 2
        return Step(along(before, half, x, x0, here.sigma, (half, d)), x0)


@dataclass(kw_only=True, eq=False, repr=False)
class KDPM2(SigmaSampler):
    """The midpoint method in log sigma: the slope in the middle leads through the whole step (DPM-Solver-2 [1]_).

    n steps ask the network 2 n - 1 times, and `timesteps` is as long.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Place the sigmas along a curve; see `SIGMA_FAMILIES`.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364, section C.4.
    """

    diffusers_name: ClassVar[str] = "KDPM2DiscreteScheduler"
    calls_per_step: ClassVar[int] = 2
    rounds_karras: ClassVar[bool] = True

    beta_start: float = 0.00085
    beta_end: float = 0.012
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        ends = super()._points(timesteps)[:-1]
        middles = [sqrt(a.sigma * self._lower(a, b)) for a, b in pairwise(ends)]
        return halved(ends, middles, self.schedule.ratios)

    def _lower(self, here: Point, there: Point) -> float:
        """The sigma that the slope leads to in a step between two points."""
        return there.sigma

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x0 = self._x0(y, x, here)
        if not self.history:
            self.history = [x]
            return Step(towards(x, x0, here, there), x0)
        whole, start = self.history.pop(), self.points[i - 1]
        h = self._lower(start, there) - start.sigma
        return Step(along(whole, h, x, x0, here.sigma, *self._fresh(start, there, draw)), x0)

    def _fresh(self, here: Point, there: Point, draw: Draw) -> list[tuple[float, Array]]:
        """Noise that a step adds."""
        return []


@dataclass(kw_only=True, eq=False, repr=False)
class KDPM2Ancestral(KDPM2):
    """`KDPM2` to a lower sigma, and fresh noise up to the following one, as in `EulerAncestral`.

    Parameters
    ----------
    schedule, **options
        See `KDPM2`.
    """

    diffusers_name: ClassVar[str] = "KDPM2AncestralDiscreteScheduler"

    def _lower(self, here: Point, there: Point) -> float:
        return down_and_up(here.sigma, there.sigma)[0]

    def _fresh(self, here: Point, there: Point, draw: Draw) -> list[tuple[float, Array]]:
        return [(down_and_up(here.sigma, there.sigma)[1], draw())]
