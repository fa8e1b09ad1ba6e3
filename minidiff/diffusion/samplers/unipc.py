"""UniPC: a predictor, and a corrector that asks the network for nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minidiff.backend import Array
from minidiff.diffusion.flow import shift_times
from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.exponential import FORMULATIONS, LINES, Formulation, weights
from minidiff.diffusion.samplers.multistep import solved
from minidiff.diffusion.samplers.sampler import Draw, Step
from minidiff.diffusion.samplers.solver import ExponentialSampler, Floats, stretched
from minidiff.diffusion.samplers.spacing import SIGMA_FAMILIES, family_of, timestep_of

__all__ = ["UniPC"]

SOLVER_TYPES = ("bh1", "bh2")
NEARLY_ONE = 1 - 1e-6  # in place of sigma = 1, where log(alpha / sigma) is infinite


def unified(f: Formulation, solver_type: str, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
    """What predictions at the points count in the step from s to t (eq. 3 and 8 of Zhao et al.).

    The predictor looks at s and points before it; the corrector at t besides. B(h) of the paper cancels out of all but
    the combinations of two points, where the weight 1/2 is given instead of solved for.
    """
    return weights(f, s, t, points, line=LINES[solver_type])


@dataclass(kw_only=True, eq=False, repr=False)
class UniPC(ExponentialSampler):
    """A multistep solver which corrects each image when it has the network's output for it [1]_.

    Parameters
    ----------
    schedule, **options
        See `ExponentialSampler`.
    solver_order : int
        Any from 1; the corrector's order is one higher. 2 with guidance, 3 without.
    predict_x0 : bool
        Interpolate the predicted clean image, as DPM-Solver++ does; otherwise the predicted noise.
    solver_type : "bh1" or "bh2"
        B(h) = h, for few steps without guidance; or e^h - 1.
    lower_order_final : bool
        Lower the order over the last steps to 1.
    disable_corrector : sequence of int
        Steps, counted from 0, whose result is not corrected: with strong guidance the first ones.
    solver_p : None
        Another predictor, which is not supported; diffusers writes this option into every file.
    final_sigmas_type : "zero" or "sigma_min"
        Where the last step leads: to the clean image, or to the least noise of the options' curve or of timestep 0.
    sigma_min, sigma_max : float, optional
        Ends of the curve, as ratios sigma / alpha; those of the schedule by default.
    shift_terminal : float, optional
        With `use_flow_sigmas`, stretch the sigmas so that this is the last before the end.

    References
    ----------
    .. [1] Zhao et al., "UniPC: A unified predictor-corrector framework for fast sampling of diffusion models", 2023,
       arXiv:2302.04867.
    """

    diffusers_name: ClassVar[str] = "UniPCMultistepScheduler"
    flow_families: ClassVar[tuple[str, ...]] = ("karras",)

    predict_x0: bool = True
    solver_type: str = "bh2"
    disable_corrector: Sequence[int] = ()
    solver_p: None = None
    final_sigmas_type: str = "zero"
    rescale_betas_zero_snr: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    shift_terminal: float | None = None

    def __post_init__(self) -> None:
        if self.solver_type in (
            "midpoint",
            "heun",
            "logrho",
        ):  # the configuration of another solver was taken over
            self.solver_type = "bh2"
        super().__post_init__()
        self.disable_corrector = tuple(self.disable_corrector)
        if self.solver_type not in SOLVER_TYPES:
            raise ValueError(
                f"UniPC: solver_type must be one of {list(SOLVER_TYPES)}, got {self.solver_type!r}"
            )
        if self.solver_p is not None:
            raise ValueError("UniPC: solver_p, another solver in place of the predictor, is not supported")
        if self.shift_terminal is not None and not self.use_flow_sigmas:
            raise ValueError("UniPC: shift_terminal has a meaning only with use_flow_sigmas=True")
        if self.final_sigmas_type == "zero" and not self.predict_x0:
            raise ValueError(
                "UniPC: predict_x0=False interpolates the noise, of which there is none at sigma = 0: choose "
                "final_sigmas_type='sigma_min'"
            )
        self._formulation = FORMULATIONS["dpmsolver++" if self.predict_x0 else "dpmsolver"]

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        f, (s, t) = self._formulation, self.points[i : i + 2]
        m, x0 = self._predicted(f, y, x, s)
        if self.history and i - 1 not in self.disable_corrector:
            x = self._corrected(i, m, draw)
        self.history = [(s, m, x), *self.history[: self.solver_order - 1]]
        points, values, _ = zip(*self.history[: self._order(i)], strict=True)
        return Step(solved(f, s, t, x, values, unified(f, self.solver_type, s, t, points), draw), x0)

    def _corrected(self, i: int, m: Array, draw: Draw) -> Array:
        """The image at point i once more, now that m is known for it."""
        f, t = self._formulation, self.points[i]
        points, values, images = zip(*self.history[: self._order(i - 1)], strict=True)
        counts = unified(f, self.solver_type, points[0], t, [t, *points])
        return solved(f, points[0], t, images[0], [m, *values], counts, draw)

    def _order(self, i: int) -> int:
        """Of the step from point i, where the history is long enough."""
        return (
            min(self.solver_order, len(self.timesteps) - i) if self.lower_order_final else self.solver_order
        )

    def _sigmas(self, timesteps: Floats) -> tuple[Floats, Floats, float]:
        ratios, family, total = self.schedule.ratios, family_of(self), self.num_train_timesteps
        if family is not None:
            low, high = self.sigma_min or float(ratios[0]), self.sigma_max or float(ratios[-1])
            sigmas = SIGMA_FAMILIES[family](low, high, len(timesteps))
            if self.use_flow_sigmas:
                sigmas = sigmas / (sigmas + 1)
                return sigmas, sigmas * total, self._last(sigmas)
            times = timestep_of(sigmas, ratios)
            return sigmas, np.round(times) if self._rounds(family) else times, self._last(sigmas)
        if not self.use_flow_sigmas:
            return super()._sigmas(timesteps)
        sigmas = shift_times(np.linspace(1, 1 / total, len(timesteps) + 1)[:-1], self._shift)
        if self.shift_terminal:
            sigmas = stretched(sigmas, self.shift_terminal)
        sigmas[0] = min(sigmas[0], NEARLY_ONE)
        return sigmas, sigmas * total, self._last(sigmas)

    def _last(self, chosen: Floats | None) -> float:
        if chosen is None or self.final_sigmas_type == "zero":
            return super()._last(chosen)
        return float(chosen[-1])
