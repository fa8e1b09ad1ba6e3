"""What DPM-Solver, UniPC and DEIS share besides their mathematics: options, and the points they visit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, hypot
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.flow import shift_times
from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.discrete import DiscreteSampler
from minidiff.diffusion.samplers.exponential import Formulation
from minidiff.diffusion.samplers.sampler import Sampler, mix
from minidiff.diffusion.samplers.spacing import SIGMA_FAMILIES, family_of, timestep_of

__all__ = ["ExponentialSampler", "dynamic_shift", "stretched"]

Floats = NDArray[np.float64]

VISITED: dict[str, Callable[[int, int, int], Floats]] = {  # of (T, the last timestep and one, n)
    "linspace": lambda T, last, n: np.round(np.linspace(0, last - 1, n + 1))[::-1][:-1],
    "leading": lambda T, last, n: np.arange(n, 0, -1.0) * (last // (n + 1)),
    "trailing": lambda T, last, n: np.round(np.arange(last, 0, -T / n))[:n] - 1,
}
TIME_SHIFTS: dict[str, Callable[[float], float]] = {"exponential": exp, "linear": lambda mu: mu}
FINAL_SIGMAS = ("zero", "sigma_min")


def dynamic_shift(sampler: Any, mu: float | None, otherwise: float) -> float:
    """The shift of flow matching's sigmas for this run: the given one, or with dynamic shifting one made of mu."""
    if sampler.time_shift_type not in TIME_SHIFTS:
        raise ValueError(
            f"time_shift_type must be one of {list(TIME_SHIFTS)}, got {sampler.time_shift_type!r}"
        )
    if sampler.use_dynamic_shifting != (mu is not None):
        raise ValueError(
            f"{type(sampler).__name__}.set_timesteps: give mu= where use_dynamic_shifting is True, and only there"
        )
    return otherwise if mu is None else TIME_SHIFTS[sampler.time_shift_type](mu)


def stretched(sigmas: Floats, last: float) -> Floats:
    """Sigmas of flow matching, moved away from 1 so that the last one is as given.

    Raises
    ------
    ValueError
        If the last one is 1: there is nothing to move.
    """
    if sigmas[-1] == 1:
        raise ValueError(f"shift_terminal={last} needs 2 steps or more: the first sigma is 1")
    moved: Floats = 1 - (1 - sigmas) * (1 - last) / (1 - sigmas[-1])
    return moved


@dataclass(kw_only=True, eq=False, repr=False)
class ExponentialSampler(DiscreteSampler):
    """Options of the samplers that solve the diffusion ODE by exponential integrators.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    solver_order : int
        How many predictions a step combines, 1 at least.
    thresholding, dynamic_thresholding_ratio, sample_max_value
        Limits on the predicted clean image; see `DDPM`.
    lower_order_final : bool
        Lower the order at the end, which steadies runs of few steps.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Visit noise levels along a curve from the last timestep's to the first's; see `SIGMA_FAMILIES`.
    use_flow_sigmas, flow_shift : bool, float
        Sample from a flow-matching network, prediction_type "flow_prediction": alpha = 1 - sigma, and the sigmas
        evenly spaced and then shifted.
    use_dynamic_shifting, time_shift_type : bool, str
        Take the shift from the `mu` of `set_timesteps` instead: e^mu ("exponential"), or mu ("linear").
    """

    solver_order: int = 2
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    lower_order_final: bool = True
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_flow_sigmas: bool = False
    flow_shift: float = 1.0
    timestep_spacing: str = "linspace"
    use_dynamic_shifting: bool = False
    time_shift_type: str = "exponential"

    final_sigmas_type = "zero"
    lambda_min_clipped = -float("inf")
    has_spacings: ClassVar[bool] = True
    flow_families: ClassVar[tuple[str, ...]] = ()  # curves that have a meaning with use_flow_sigmas

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.solver_order < 1:
            raise ValueError(f"{name}: solver_order must be at least 1, got {self.solver_order}")
        if self.final_sigmas_type not in FINAL_SIGMAS:
            raise ValueError(
                f"{name}: final_sigmas_type must be one of {list(FINAL_SIGMAS)}, got {self.final_sigmas_type!r}"
            )
        if family_of(self) and self.use_flow_sigmas and family_of(self) not in self.flow_families:
            raise ValueError(
                f"{name}: with use_flow_sigmas sigmas are from 0 to 1, and those of the {family_of(self)} curve go "
                "beyond: choose one of the two options, or FlowMatchEuler, which has both"
            )
        self._shift = self.flow_shift

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose how many steps sampling takes, or at which timesteps; see `DiscreteSampler.set_timesteps`.

        Parameters
        ----------
        mu : float, optional
            With `use_dynamic_shifting`, how far the sigmas are moved towards noise.
        """
        if timesteps is not None and (family_of(self) or self.use_flow_sigmas):
            raise ValueError(f"{self!r}: timesteps= has no meaning where the options choose the sigmas")
        self._shift = dynamic_shift(self, mu, self.flow_shift)
        super().set_timesteps(num_inference_steps, timesteps=timesteps)

    def add_noise(self, x0: Array, noise: Array, timesteps: Any) -> Array:
        """The forward process: to the points where these are some of `timesteps`, otherwise as in training.

        With `use_flow_sigmas` they must be some of `timesteps`. An array on another device is of training.
        """
        looked_at = isinstance(timesteps, (int, float, list, tuple, np.ndarray, np.generic))
        if self.use_flow_sigmas or (looked_at and np.isin(timesteps, self.timesteps).all()):
            return Sampler.add_noise(self, x0, noise, timesteps)
        return super().add_noise(x0, noise, timesteps)

    # --- the points

    def _spaced(self, n: int) -> Floats:
        total, clipped = self.num_train_timesteps, self.lambda_min_clipped
        if not 1 <= n <= total:
            raise ValueError(f"{self!r}: {n} steps are not from 1 to the {total} timesteps of training")
        last = int(np.sum(-np.log(self.schedule.ratios) >= clipped))
        spacing = self.timestep_spacing if self.has_spacings else "linspace"
        timesteps = VISITED[spacing](total, last, n)
        if spacing == "leading":
            timesteps = timesteps + self.steps_offset
        if timesteps[0] >= total or timesteps[0] < 1:
            raise ValueError(
                f"{self!r}: {n} steps begin at timestep {timesteps[0]:.0f}, which is not from 1 to {total - 1}"
            )
        return timesteps

    def _points(self, timesteps: Floats) -> list[Point]:
        sigmas, times, last = self._sigmas(timesteps)
        visited = [self._point(float(s), int(t)) for s, t in zip(sigmas, times, strict=True)]
        return [*visited, self._point(last)]

    def _point(self, sigma: float, timestep: int = -1) -> Point:
        """A point by its ratio sigma / alpha, or by the sigma of flow matching."""
        if self.use_flow_sigmas:
            return Point(1 - sigma, sigma, timestep)
        scale = hypot(1.0, sigma)
        return Point(1 / scale, sigma / scale, timestep)

    def _sigmas(self, timesteps: Floats) -> tuple[Floats, Floats, float]:
        """Sigmas, their timesteps, and the sigma at the end."""
        ratios, family, n = self.schedule.ratios, family_of(self), len(timesteps)
        if family is not None:
            sigmas = SIGMA_FAMILIES[family](float(ratios[0]), float(ratios[-1]), n)
            times = timestep_of(sigmas, ratios)
            return sigmas, np.round(times) if self._rounds(family) else times, self._last(sigmas)
        if self.use_flow_sigmas:
            sigmas = shift_times(np.linspace(1 - 1 / self.num_train_timesteps, 0, n + 1), self._shift)[:-1]
            return sigmas, sigmas * self.num_train_timesteps, self._last(sigmas)
        return np.interp(timesteps, np.arange(len(ratios)), ratios), timesteps, self._last(None)

    def _rounds(self, family: str) -> bool:
        """Whether the timesteps of a curve are rounded; those of others are truncated."""
        return family == "karras"

    def _last(self, chosen: Floats | None) -> float:
        """The sigma at the end, after sigmas that the options chose, if they did."""
        return 0.0 if self.final_sigmas_type == "zero" else float(self.schedule.ratios[0])

    # --- the network's output

    def _predicted(self, f: Formulation, y: Array, x: Array, point: Point) -> tuple[Array, Array]:
        """What the solver integrates, and the predicted clean image."""
        x0 = self._x0(y, x, point)
        if not f.of_noise:
            return x0, x0
        if self.thresholding:
            return mix((1 / point.sigma, x), (-point.alpha / point.sigma, x0)), x0
        return self._noise(y, x, point), x0
