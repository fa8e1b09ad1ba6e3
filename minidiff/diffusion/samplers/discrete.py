"""Samplers for networks that were trained at T timesteps: a `NoiseSchedule`, and which of its timesteps are visited.

Two ways to look at the same path. `DiscreteSampler` keeps the variance: its points are the schedule's. `SigmaSampler`
leaves the image at its full size and adds noise to it, alpha = 1; the network then sees the image divided by
sqrt(1 + sigma^2), which is the first way's.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.coefficients import Timesteps
from minidiff.diffusion.points import CLEAN, Point
from minidiff.diffusion.samplers.sampler import Sampler, mix
from minidiff.diffusion.samplers.spacing import (
    SIGMA_FAMILIES,
    SPACINGS,
    descends,
    family_of,
    spaced,
    timestep_of,
    whole,
)
from minidiff.diffusion.schedule import NoiseSchedule

__all__ = ["DiscreteSampler", "SigmaSampler"]


@dataclass(kw_only=True, eq=False, repr=False)
class DiscreteSampler(Sampler):
    """Options of the samplers that follow a `NoiseSchedule`.

    Parameters
    ----------
    schedule : NoiseSchedule, optional
        The one the network was trained with. Its fields may be given as keywords in its place.
    num_train_timesteps, beta_schedule, beta_start, beta_end, trained_betas
        See `NoiseSchedule`.
    prediction_type : "epsilon", "sample", "v_prediction" or "flow_prediction"
        What the network's output means.
    timestep_spacing : "leading", "trailing" or "linspace"
        Which n of the T timesteps are visited (table 2 of [1]_): T // n apart from 0 up; T / n apart from
        T - 1 down; or evenly from T - 1 to 0. Only the last two begin at T - 1, where the noise is strongest.
    steps_offset : int
        Added to every timestep of "leading".

    Raises
    ------
    ValueError
        If a name is unknown or a number out of its range.

    References
    ----------
    .. [1] Lin, Liu, Li, Yang, "Common diffusion noise schedules and sample steps are flawed", 2023,
       arXiv:2305.08891.
    """

    schedule: NoiseSchedule = field(default=None, kw_only=False)  # type: ignore[assignment]
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    trained_betas: Sequence[float] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0

    rescale_betas_zero_snr = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.timestep_spacing not in SPACINGS:
            raise ValueError(
                f"{name}: timestep_spacing must be one of {list(SPACINGS)}, got {self.timestep_spacing!r}"
            )
        if self.steps_offset < 0:
            raise ValueError(f"{name}: steps_offset must be at least 0, got {self.steps_offset}")
        self.schedule = self._only_schedule()
        for f in fields(NoiseSchedule):
            setattr(self, f.name, getattr(self.schedule, f.name))

    def _only_schedule(self) -> NoiseSchedule:
        """The schedule that was given, or the one that the keywords describe."""
        names = [f.name for f in fields(NoiseSchedule)]
        if self.schedule is None:
            return NoiseSchedule(**{key: getattr(self, key) for key in names})
        defaults = {f.name: f.default for f in fields(self) if f.name in names}
        changed = {
            key: value
            for key, default in defaults.items()
            if (value := getattr(self, key)) is not default and value is not getattr(self.schedule, key, None)
        }
        if not isinstance(self.schedule, NoiseSchedule) or changed:
            raise TypeError(
                f"{type(self).__name__}: give a NoiseSchedule, or its fields as keywords, not {self.schedule!r} "
                f"and {changed}"
            )
        return self.schedule

    def set_timesteps(
        self, num_inference_steps: int | None = None, *, timesteps: Sequence[float] | None = None
    ) -> None:
        """Choose how many steps sampling takes, 1 to `num_train_timesteps`, or at which timesteps.

        Parameters
        ----------
        num_inference_steps : int, optional
        timesteps : sequence of int, optional
            In place of a number: which of 0 ... T - 1 to visit, descending.

        Raises
        ------
        ValueError
            If neither or both are given, or they are out of range or order.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError(f"{self!r}: give set_timesteps a number of steps, or timesteps=")
        if num_inference_steps is not None:
            self._begin(self._plan(operator.index(num_inference_steps)))
            return
        chosen, last = np.asarray(timesteps, dtype=np.float64), self.num_train_timesteps - 1
        if not descends(chosen) or not 0 <= chosen[-1] <= chosen[0] <= last:
            raise ValueError(
                f"{self!r}: timesteps must go down from {last} at most to 0 at least, got {chosen.tolist()}"
            )
        self._begin(self._points(chosen))

    def add_noise(self, x0: Array, noise: Array, timesteps: Timesteps) -> Array:
        """The forward process at timesteps of training; see `NoiseSchedule.add_noise`."""
        return self.schedule.add_noise(x0, noise, timesteps)

    def get_velocity(self, x0: Array, noise: Array, timesteps: Timesteps) -> Array:
        """The "v_prediction" target at timesteps of training; see `NoiseSchedule.get_velocity`."""
        return self.schedule.get_velocity(x0, noise, timesteps)

    def _spaced(self, n: int) -> NDArray[np.float64]:
        """N timesteps as the options say, descending; those of "linspace" are not rounded."""
        try:
            return spaced(self.timestep_spacing, self.num_train_timesteps, n, self.steps_offset)
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}") from None

    def _plan(self, n: int) -> list[Point]:
        return self._points(self._spaced(n))

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        """The points of these timesteps, and the one after them."""
        return [*map(self.schedule.point, whole(timesteps)), CLEAN]


@dataclass(kw_only=True, eq=False, repr=False)
class SigmaSampler(DiscreteSampler):
    """Options of the samplers that add noise to an image of full size: x = x_0 + sigma noise.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.

    Attributes
    ----------
    timesteps : list of float
        Not rounded: networks interpolate between timesteps of training.
    """

    timestep_spacing: str = "linspace"

    final_sigmas_type = "zero"  # an option that some have
    rounds_karras: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        family_of(self)  # for its error

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise that sampling begins with: the first sigma, or for "leading" a bit more."""
        sigma = max(p.sigma for p in self.points) if self.points else float(self.schedule.ratios[-1])
        return sigma if self.timestep_spacing in ("linspace", "trailing") else (sigma**2 + 1) ** 0.5

    def scale_model_input(self, sample: Array, timestep: float) -> Array:
        """`sample` divided by sqrt(1 + sigma^2), as the network saw images in training."""
        return mix((1 / self.points[self._index(timestep)].scale, sample))

    def add_noise(self, x0: Array, noise: Array, timesteps: Any) -> Array:
        """x_0 + sigma noise, at one or N of `timesteps`; see `Sampler.add_noise`."""
        return Sampler.add_noise(self, x0, noise, timesteps)

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        sigmas, times = self._sigmas(timesteps)
        return [Point(1.0, float(s), float(t)) for s, t in zip(sigmas, times, strict=True)] + [self._final()]

    def _final(self) -> Point:
        """Where the last step leads: to the clean image, or to the noise of timestep 0."""
        return CLEAN if self.final_sigmas_type == "zero" else Point(1.0, float(self.schedule.ratios[0]))

    def _sigmas(self, timesteps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Noise levels and their timesteps: those of `timesteps`, or as many along a curve between their ends."""
        ratios, family = self.schedule.ratios, family_of(self)
        sigmas = np.interp(timesteps, np.arange(len(ratios)), ratios)
        if family is not None:
            sigmas = SIGMA_FAMILIES[family](*self._ends(sigmas), len(timesteps))
            timesteps = timestep_of(sigmas, ratios)
            if family == "karras" and self.rounds_karras:
                timesteps = np.round(timesteps)
        return sigmas, timesteps.astype(np.float32)

    def _ends(self, sigmas: NDArray[np.float64]) -> tuple[float, float]:
        """The lowest and the highest noise level of a curve in place of these."""
        return float(sigmas[-1]), float(sigmas[0])
