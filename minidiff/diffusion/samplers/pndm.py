"""Pseudo numerical methods: Runge-Kutta and multistep formulas for the noise, with DDIM's step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.points import CLEAN, Point
from minidiff.diffusion.samplers.discrete import DiscreteSampler
from minidiff.diffusion.samplers.sampler import Draw, Step, mix
from minidiff.diffusion.samplers.spacing import whole

__all__ = ["PNDM"]

RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
MULTISTEP = {  # what the last outputs count, newest first: Adams-Bashforth
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(kw_only=True, eq=False, repr=False)
class PNDM(DiscreteSampler):
    """Three steps of Runge-Kutta, each of which asks the network four times, then a multistep method [1]_.

    As in diffusers, what is averaged is the network's output, whatever it means: take "epsilon" where you can.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    skip_prk_steps : bool
        Begin with a step of two calls in place of Runge-Kutta's twelve, as latent diffusion does; otherwise a run
        takes at least 4 steps.
    set_alpha_to_one : bool
        The last step leads to alpha_bar = 1, a clean image; otherwise to alpha_bar of timestep 0.

    References
    ----------
    .. [1] Liu, Ren, Lin, Zhao, "Pseudo numerical methods for diffusion models on manifolds", 2022, arXiv:2202.09778,
       algorithm 2.
    """

    diffusers_name: ClassVar[str] = "PNDMScheduler"

    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._legs: list[tuple[Point, Point]] = []
        self._start: Array = None  # the image with which a step of several calls began
        self._stages: list[Array] = []

    @property
    def starts(self) -> list[int]:
        """See `Sampler.starts`: not the calls inside of Runge-Kutta's steps, nor the second one of the first step."""
        first = [0, 4, 8] if not self.skip_prk_steps else [0]
        rest = 12 if not self.skip_prk_steps else 2
        return [*first, *range(rest, len(self.timesteps))]

    def _plan(self, n: int) -> list[Point]:
        times, stride = whole(self._spaced(n)), self.num_train_timesteps // n
        return self._calls(times, [t - stride for t in times])

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        times = whole(timesteps)
        return self._calls(times, [*times[1:], -1])

    def _at(self, t: int) -> Point:
        return (
            self.schedule.point(t) if t >= 0 else CLEAN if self.set_alpha_to_one else self.schedule.point(0)
        )

    def _calls(self, times: list[int], after: list[int]) -> list[Point]:
        """When the network is asked; and, in `_legs`, from where to where the step then leads."""
        calls = self._two_calls(times, after) if self.skip_prk_steps else self._four_calls(times, after)
        self._legs = [(self.schedule.point(start), self._at(end)) for _, start, end in calls]
        return [replace(self._at(t), timestep=t) for t, _, _ in calls] + [self._legs[-1][1]]

    def _two_calls(self, times: list[int], after: list[int]) -> list[tuple[int, int, int]]:
        """The first step is taken again with what the network says at its end."""
        calls = list(zip(times, times, after, strict=True))
        return [*calls[:1], *((t, t + times[0] - after[0], t) for t in times[1:2]), *calls[1:]]

    def _four_calls(self, times: list[int], after: list[int]) -> list[tuple[int, int, int]]:
        """Runge and Kutta's four calls, at the start, twice in the middle and at the end, of the first three steps."""
        if len(times) < 4:
            raise ValueError(
                f"{self!r}: at least 4 steps are needed, got {len(times)}; skip_prk_steps=True takes any"
            )
        calls = []
        for (start, end), there in zip(pairwise(times[:4]), after, strict=False):
            half = (start - there) // 2
            calls += [(start, start, start - half), (end + half, start, end + half)]
            calls += [(end + half, start, end), (end, start, end)]
        return calls + list(zip(times, times, after, strict=True))[3:]

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        twelve = 0 if self.skip_prk_steps else 12
        if i < twelve:
            return self._runge_kutta(i, y, x)
        if i == 1 and self.skip_prk_steps and self.history:
            return self._leg(i, mix((0.5, y), (0.5, self.history[0])), self._start)
        self._start = x
        self.history = [y, *self.history][:4]
        weights = MULTISTEP[len(self.history)]
        return self._leg(i, mix(*zip(weights, self.history, strict=True)), x)

    def _runge_kutta(self, i: int, y: Array, x: Array) -> Step:
        stage = i % 4
        if stage == 0:
            self._start, self._stages = x, []
            self.history = [y, *self.history][:4]
        elif not self.history:
            raise ValueError(
                f"{self!r}: step {i} of {len(self.timesteps)} is inside a Runge-Kutta step, where no run can begin"
            )
        self._stages.append(y)
        if stage == 3:
            y = mix(*zip(RUNGE_KUTTA, self._stages, strict=True))
        return self._leg(i, y, self._start)

    def _leg(self, i: int, y: Array, x: Array) -> Step:
        """DDIM's step (eq. 11 of the paper)."""
        here, there = self._legs[i]
        x0 = self._x0(y, x, here)
        return Step(mix((there.alpha, x0), (there.sigma, self._noise(y, x, here))), x0)
