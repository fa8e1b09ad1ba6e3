"""DPM-Solver++ of order 2 for the SDE, by ancestral steps from the middle."""

from __future__ import annotations

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
from minidiff.diffusion.samplers.heun import halved
from minidiff.diffusion.samplers.sampler import Draw, Step, mix

__all__ = ["DPMSolverSDE"]


@dataclass(kw_only=True, eq=False, repr=False)
class DPMSolverSDE(SigmaSampler):
    """The clean image predicted in the middle of a step leads through all of it, with fresh noise [1]_.

    n steps ask the network 2 n - 1 times, and `timesteps` is as long. The noise of a step is one Brownian motion over
    sigma: what is added on the way to the middle is part of what is added on the whole way.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Place the sigmas along a curve; see `SIGMA_FAMILIES`.
    s_noise : float
        Standard deviation of the noise that is added.
    noise_sampler_seed : int, optional
        Of diffusers' files; without effect, as `step` is given its generator.

    References
    ----------
    .. [1] Lu et al., "DPM-Solver++: Fast solver for guided sampling of diffusion probabilistic models", 2022,
       arXiv:2211.01095, algorithm 1, with the ancestral steps of k-diffusion's `sample_dpmpp_sde`.
    """

    diffusers_name: ClassVar[str] = "DPMSolverSDEScheduler"
    calls_per_step: ClassVar[int] = 2

    beta_start: float = 0.00085
    beta_end: float = 0.012
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    s_noise: float = 1.0
    noise_sampler_seed: int | None = None

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        ends = super()._points(timesteps)[:-1]
        middles = [sqrt(a.sigma * b.sigma) for a, b in pairwise(ends)]
        return halved(ends, middles, self.schedule.ratios)

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x0 = self._x0(y, x, here)
        if there is CLEAN:
            return Step(x0, x0)
        if not self.history:
            z = draw()
            self.history = [(x, z)]
            return Step(self._ancestral(x, x0, here, there, z), x0)
        whole, z = self.history.pop()
        start = self.points[i - 1]
        full, first, second = (
            sqrt(a.sigma - b.sigma) for a, b in ((start, there), (start, here), (here, there))
        )
        return Step(
            self._ancestral(whole, x0, start, there, mix((first / full, z), (second / full, draw()))), x0
        )

    def _ancestral(self, x: Array, x0: Array, here: Point, there: Point, z: Array) -> Array:
        down, up = down_and_up(here.sigma, there.sigma)
        return mix((1.0, towards(x, x0, here, Point(1.0, down))), (self.s_noise * up, z))
