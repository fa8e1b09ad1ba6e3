"""DEIS: an exponential integrator over log rho."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.exponential import FORMULATIONS, weights
from minidiff.diffusion.samplers.multistep import Multistep
from minidiff.diffusion.samplers.solver import ExponentialSampler, Floats

__all__ = ["DEIS"]


@dataclass(kw_only=True, eq=False, repr=False)
class DEIS(ExponentialSampler, Multistep):
    """The polynomial through the last predictions of the noise, integrated exactly [1]_.

    rho = sigma / alpha, so that its logarithm is -lambda, and the integral of a polynomial in log rho over rho is that
    of DPM-Solver over lambda.

    Parameters
    ----------
    schedule, **options
        See `ExponentialSampler`. The last step leads to the noise of timestep 0; where the options choose the sigmas,
        it stays at the least of them, as in diffusers.
    solver_order : 1, 2 or 3
        1 is DDIM.
    lower_order_final : bool
        In runs of fewer than 15 steps, order 2 at most in the last step but one, and order 1 in the last.

    References
    ----------
    .. [1] Zhang, Chen, "Fast sampling of diffusion models with exponential integrator", 2022, arXiv:2204.13902,
       section 3 and appendix B.
    """

    diffusers_name: ClassVar[str] = "DEISMultistepScheduler"

    algorithm_type: str = "deis"
    solver_type: str = "logrho"

    final_sigmas_type = "sigma_min"

    def __post_init__(self) -> None:
        self.algorithm_type, self.solver_type = (
            "deis",
            "logrho",
        )  # also where another's configuration was taken over
        super().__post_init__()
        if self.solver_order > 3:
            raise ValueError(f"DEIS: solver_order must be 1, 2 or 3, got {self.solver_order}")
        self._formulation = FORMULATIONS["dpmsolver"]

    def _counts(self, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
        return weights(self._formulation, s, t, points)

    def _last(self, chosen: Floats | None) -> float:
        return super()._last(chosen) if chosen is None else float(chosen[-1])
