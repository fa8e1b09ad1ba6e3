"""A linear multistep method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minidiff.backend import Array
from minidiff.diffusion.samplers.discrete import SigmaSampler
from minidiff.diffusion.samplers.heun import slope
from minidiff.diffusion.samplers.sampler import Draw, Step, mix

__all__ = ["LMS", "adams_bashforth"]


def adams_bashforth(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """What slopes at `nodes` count in the integral from start to end of the polynomial through them."""
    weights = []
    for j, node in enumerate(nodes):
        others = [(other - start) / (end - start) for k, other in enumerate(nodes) if k != j]
        place = (node - start) / (end - start)
        basis = np.polynomial.Polynomial.fromroots(others) if others else np.polynomial.Polynomial([1.0])
        weights.append(float((end - start) * basis.integ()(1.0) / basis(place)))
    return weights


@dataclass(kw_only=True, eq=False, repr=False)
class LMS(SigmaSampler):
    """The polynomial through the slopes at the last few points, integrated over the step (Adams-Bashforth).

    A run that begins midway, too, has one slope in its first step, two in its second; diffusers then takes
    weights for slopes that are not there.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    order : int
        How many slopes, from 1 (Euler's method) to 4; the first steps have fewer.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Place the sigmas along a curve; see `SIGMA_FAMILIES`.
    """

    diffusers_name: ClassVar[str] = "LMSDiscreteScheduler"

    order: int = 4
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.order <= 4:
            raise ValueError(f"LMS: order must be from 1 to 4, got {self.order}")

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x0 = self._x0(y, x, here)
        self.history = [slope(x, x0, here.sigma), *self.history][: self.order]
        nodes = [self.points[i - k].sigma for k in range(len(self.history))]
        weights = adams_bashforth(nodes, here.sigma, there.sigma)
        return Step(mix((1.0, x), *zip(weights, self.history, strict=True)), x0)
