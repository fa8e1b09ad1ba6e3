"""DPM-Solver and DPM-Solver++, for the ODE and the SDE, multistep and singlestep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from minidiff.backend import Array
from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.ddpm import VARIANCE_TYPES
from minidiff.diffusion.samplers.exponential import FORMULATIONS, LINES, Formulation, weights
from minidiff.diffusion.samplers.multistep import Multistep, solved
from minidiff.diffusion.samplers.sampler import Draw, Step
from minidiff.diffusion.samplers.solver import ExponentialSampler

__all__ = ["DPMSolverMultistep", "DPMSolverSinglestep"]

SOLVER_TYPES = ("midpoint", "heun")
OF_OTHERS = {"deis": "dpmsolver++", "logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}  # taken over


def multistep(f: Formulation, solver_type: str, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
    """What predictions at the last one to three points count, the latest first (algorithm 2 of Lu et al., 2022b).

    Three are combined as in the authors' code, which halves the second derivative's term: it is of second order
    for that, with a smaller error than that of two.
    """
    return weights(f, s, t, points, line=LINES[solver_type], bend=0.5)


def singlestep(f: Formulation, solver_type: str, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
    """What predictions at one to three points count, the latest first; s is the oldest of them."""
    if len(points) == 3 and solver_type == "midpoint":  # a line through the ends: eq. 4.5 of Lu et al., 2022a
        latest, oldest = weights(f, s, t, [points[0], points[2]])
        return [latest, 0.0, oldest]
    return weights(f, s, t, points, line=LINES[solver_type])


@dataclass(kw_only=True, eq=False, repr=False)
class _DPMSolver(ExponentialSampler):
    """Options of both."""

    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    final_sigmas_type: str = "zero"
    lambda_min_clipped: float = -float("inf")
    variance_type: str | None = None

    algorithms: ClassVar[tuple[str, ...]] = tuple(FORMULATIONS)

    def __post_init__(self) -> None:
        self.algorithm_type = OF_OTHERS.get(self.algorithm_type, self.algorithm_type)
        self.solver_type = OF_OTHERS.get(self.solver_type, self.solver_type)
        super().__post_init__()
        name = type(self).__name__
        if self.algorithm_type not in self.algorithms or self.solver_type not in SOLVER_TYPES:
            raise ValueError(
                f"{name}: algorithm_type must be one of {list(self.algorithms)} and solver_type one of "
                f"{list(SOLVER_TYPES)}, got {self.algorithm_type!r} and {self.solver_type!r}"
            )
        if self.solver_order > 3:
            raise ValueError(f"{name}: solver_order must be 1, 2 or 3, got {self.solver_order}")
        if self.variance_type not in (None, *VARIANCE_TYPES):
            raise ValueError(
                f"{name}: variance_type must be None or one of {list(VARIANCE_TYPES)}, got {self.variance_type!r}"
            )
        self._formulation = FORMULATIONS[self.algorithm_type]
        if self._formulation.of_noise and self.final_sigmas_type == "zero":
            raise ValueError(
                f"{name}: algorithm_type {self.algorithm_type!r} predicts the noise, of which there is none at "
                "sigma = 0: choose final_sigmas_type='sigma_min'"
            )


@dataclass(kw_only=True, eq=False, repr=False)
class DPMSolverMultistep(_DPMSolver, Multistep):
    """DPM-Solver++ and its kin, from the predictions of the last steps: one call of the network a step [1]_ [2]_.

    Parameters
    ----------
    schedule, **options
        See `ExponentialSampler`.
    solver_order : 1, 2 or 3
        2 is right where there is guidance; 1 is DDIM.
    algorithm_type : str
        "dpmsolver++" interpolates the predicted clean image [2]_, "dpmsolver" the predicted noise [1]_; with "sde-"
        before it, fresh noise is added in every step (section 5 of [2]_).
    solver_type : "midpoint" or "heun"
        How the slope is integrated at order 2: at the middle of the step, or exactly.
    lower_order_final : bool
        In runs of fewer than 15 steps, order 2 at most in the last step but one, and order 1 in the last.
    euler_at_final : bool
        Order 1 in the last step whatever the number of steps.
    use_lu_lambdas : bool
        Visit noise levels evenly spaced in lambda.
    final_sigmas_type : "zero" or "sigma_min"
        Where the last step leads: to the clean image (by order 1), or to the noise of timestep 0.
    lambda_min_clipped : float
        Begin at the first timestep whose log(alpha / sigma) is not below this; -5.1 for cosine schedules.
    variance_type : str, optional
        Of `DDPM`; what the network says of variances is not looked at in any case.

    References
    ----------
    .. [1] Lu et al., "DPM-Solver: A fast ODE solver for diffusion probabilistic model sampling in around 10 steps",
       2022, arXiv:2206.00927.
    .. [2] Lu et al., "DPM-Solver++: Fast solver for guided sampling of diffusion probabilistic models", 2022,
       arXiv:2211.01095.

    Examples
    --------
    >>> sampler = DPMSolverMultistep(use_karras_sigmas=True)
    >>> sampler.set_timesteps(4)
    >>> sampler.timesteps
    [999, 775, 301, 0]
    """

    diffusers_name: ClassVar[str] = "DPMSolverMultistepScheduler"

    euler_at_final: bool = False
    use_lu_lambdas: bool = False
    rescale_betas_zero_snr: bool = False

    def _counts(self, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
        return multistep(self._formulation, self.solver_type, s, t, points)

    def _rounds(self, family: str) -> bool:
        return family in ("karras", "lambda") and self.beta_schedule not in ("squaredcos_cap_v2", "cosine")


@dataclass(kw_only=True, eq=False, repr=False)
class DPMSolverSinglestep(_DPMSolver):
    """DPM-Solver++ and its kin, whose steps do not look back: one to three calls of the network each [1]_ [2]_.

    Every timestep is a call of the network. At order 3 they come in threes: from the image at the first one, steps
    of order 1, 2 and 3 lead to the second, the third, and the first of the next three.

    Parameters
    ----------
    schedule, **options
        See `DPMSolverMultistep`; timesteps are those of "linspace", whatever timestep_spacing says.
    lower_order_final : bool
        Do without the highest order at the very end; where the number of steps is not a multiple of the order, and
        with final_sigmas_type "zero", the end has order 1 anyway.

    References
    ----------
    .. [1] Lu et al., 2022, arXiv:2206.00927, algorithms 1 and 2.
    .. [2] Lu et al., 2022, arXiv:2211.01095, algorithm 1.
    """

    diffusers_name: ClassVar[str] = "DPMSolverSinglestepScheduler"
    algorithms: ClassVar[tuple[str, ...]] = ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")
    has_spacings: ClassVar[bool] = False
    extras: ClassVar[frozenset[str]] = _DPMSolver.extras | {"timestep_spacing", "steps_offset"}

    lower_order_final: bool = False

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, t = self.points[i : i + 2]
        m, x0 = self._predicted(self._formulation, y, x, here)
        self.history = [(here, m, x), *self.history[: self.solver_order - 1]]
        points, values, images = zip(*self.history[: self._order(i)], strict=True)
        s = points[-1]
        counts = singlestep(self._formulation, self.solver_type, s, t, points)
        return Step(solved(self._formulation, s, t, images[-1], values, counts, draw), x0)

    def _order(self, i: int) -> int:
        order, last = i % self.solver_order + 1, i + 1 == len(self.timesteps)
        full = order == self.solver_order
        return (
            1 if last and (self.final_sigmas_type == "zero" or (self.lower_order_final and full)) else order
        )
