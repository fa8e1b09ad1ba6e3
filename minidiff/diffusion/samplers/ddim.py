"""Sampling along deterministic paths, with as much fresh noise as is wanted; and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.points import CLEAN, Point
from minidiff.diffusion.samplers.discrete import DiscreteSampler
from minidiff.diffusion.samplers.sampler import Draw, Step, mix
from minidiff.diffusion.samplers.spacing import whole
from minidiff.diffusion.schedule import posterior_coefficients

__all__ = ["DDIM", "DDIMInverse", "towards"]


def towards(x: Array, x0: Array, here: Point, there: Point, *fresh: tuple[float, Array]) -> Array:
    """From `here` to `there` without fresh noise: x_0 and the noise that x consists of, mixed anew (eq. 12 of [1]_).

    It is Euler's method too: with alpha = 1 the step is (sigma' - sigma) (x - x_0) / sigma. `fresh` noise, with its
    standard deviation, is added.

    References
    ----------
    .. [1] Song, Meng, Ermon, "Denoising diffusion implicit models", 2020, arXiv:2010.02502.
    """
    kept = there.sigma / here.sigma
    return mix((kept, x), (there.alpha - kept * here.alpha, x0), *fresh)


@dataclass(kw_only=True, eq=False, repr=False)
class DDIM(DiscreteSampler):
    """Sampling with as much fresh noise as is wanted: none by default [1]_.

    As in diffusers, a step leads from t to t - T // n, whatever timestep of "linspace" or "trailing" is visited
    next. With `set_timesteps(timesteps=...)` it leads to the next of them.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    eta : float
        From 0 (deterministic) to 1 (the variance of DDPM).
    use_clipped_model_output : bool
        Take the noise from the clipped x_0 and not, as diffusers does by default, from the network.
    set_alpha_to_one : bool
        The last step leads to alpha_bar = 1, a clean image; otherwise to alpha_bar of timestep 0.
    clip_sample, clip_sample_range, thresholding, dynamic_thresholding_ratio, sample_max_value
        Limits on the predicted clean image; see `DDPM`.
    rescale_betas_zero_snr : bool
        See `NoiseSchedule`.

    References
    ----------
    .. [1] Song, Meng, Ermon, "Denoising diffusion implicit models", 2020, arXiv:2010.02502.
    """

    diffusers_name: ClassVar[str] = "DDIMScheduler"

    eta: float = 0.0
    use_clipped_model_output: bool = False
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM: eta must lie in [0, 1], got {self.eta}")
        self._targets: list[Point] = []

    def _plan(self, n: int) -> list[Point]:
        points = super()._plan(n)
        stride = self.num_train_timesteps // n
        self._targets = [self._at(int(p.timestep) - stride) for p in points[:-1]]
        return points

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        points = [*super()._points(timesteps)[:-1], self._at(-1)]
        self._targets = points[1:]
        return points

    def _at(self, t: int) -> Point:
        """The point of timestep t, or for t < 0 where the last step leads."""
        return (
            self.schedule.point(t) if t >= 0 else CLEAN if self.set_alpha_to_one else self.schedule.point(0)
        )

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i], self._targets[i]
        x0 = self._x0(y, x, here)
        _, _, beta_tilde = posterior_coefficients(here.alpha, here.sigma, there.alpha, there.sigma)
        std = self.eta * sqrt(beta_tilde)  # eq. 16
        rest = sqrt(max(there.sigma**2 - std**2, 0.0))
        fresh = [(std, draw())] if std > 0 else []
        if self.use_clipped_model_output:
            return Step(towards(x, x0, here, Point(there.alpha, rest), *fresh), x0)
        return Step(mix((there.alpha, x0), (rest, self._noise(y, x, here)), *fresh), x0)  # eq. 12


@dataclass(kw_only=True, eq=False, repr=False)
class DDIMInverse(DiscreteSampler):
    """From a clean image to the noise from which `DDIM` would draw it [1]_.

    The timesteps ascend; at each one the network is asked as if the image stood T // n timesteps earlier, as in
    diffusers, and the step leads up to it.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`; "linspace" is not a spacing of diffusers' here.
    set_alpha_to_one : bool
        Begin at alpha_bar = 1, a clean image; otherwise at alpha_bar of timestep 0.
    clip_sample, clip_sample_range, rescale_betas_zero_snr
        See `DDIM`.

    References
    ----------
    .. [1] Song, Meng, Ermon, "Denoising diffusion implicit models", 2020, arXiv:2010.02502, section 4.3.
    """

    diffusers_name: ClassVar[str] = "DDIMInverseScheduler"

    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    rescale_betas_zero_snr: bool = False

    def _plan(self, n: int) -> list[Point]:
        times, stride = whole(self._spaced(n)[::-1]), self.num_train_timesteps // n
        return self._upwards([t - stride for t in times], times)

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        times = whole(timesteps[::-1])
        return self._upwards([-1, *times[:-1]], times)

    def _upwards(self, before: list[int], times: list[int]) -> list[Point]:
        """Where the image stands, and at which timestep the network is asked."""
        first = CLEAN if self.set_alpha_to_one else self.schedule.point(0)
        stands = [self.schedule.point(b) if b >= 0 else first for b in before]
        asked = [replace(point, timestep=t) for point, t in zip(stands, times, strict=True)]
        return [*asked, self.schedule.point(times[-1])]

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here = self.points[i]
        there = self.schedule.point(int(here.timestep))
        x0 = self._x0(y, x, here)
        return Step(mix((there.alpha, x0), (there.sigma, self._noise(y, x, here))), x0)
