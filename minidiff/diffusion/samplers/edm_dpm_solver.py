"""DPM-Solver++ for networks with the preconditioning of EDM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from minidiff.backend import Array
from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.dpm_solver import OF_OTHERS, SOLVER_TYPES, multistep
from minidiff.diffusion.samplers.edm import EDMSampler
from minidiff.diffusion.samplers.exponential import FORMULATIONS, Formulation
from minidiff.diffusion.samplers.multistep import Multistep

__all__ = ["EDMDPMSolverMultistep"]

ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++")


@dataclass(kw_only=True, eq=False, repr=False)
class EDMDPMSolverMultistep(EDMSampler, Multistep):
    """`DPMSolverMultistep` where alpha = 1, for a network inside EDM's preconditioning.

    Parameters
    ----------
    **options
        See `EDMSampler`.
    solver_order, solver_type, lower_order_final, euler_at_final
        See `DPMSolverMultistep`.
    algorithm_type : "dpmsolver++" or "sde-dpmsolver++"
        The second adds fresh noise in every step.
    thresholding, dynamic_thresholding_ratio, sample_max_value
        Limits on the predicted clean image; see `DDPM`.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364.
    .. [2] Lu et al., "DPM-Solver++: Fast solver for guided sampling of diffusion probabilistic models", 2022,
       arXiv:2211.01095.
    """

    diffusers_name: ClassVar[str] = "EDMDPMSolverMultistepScheduler"

    solver_order: int = 2
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    algorithm_type: str = "dpmsolver++"
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.algorithm_type = OF_OTHERS.get(self.algorithm_type, self.algorithm_type)
        self.solver_type = OF_OTHERS.get(self.solver_type, self.solver_type)
        if self.algorithm_type not in ALGORITHMS or self.solver_type not in SOLVER_TYPES:
            raise ValueError(
                f"EDMDPMSolverMultistep: algorithm_type must be one of {ALGORITHMS} and solver_type one of "
                f"{SOLVER_TYPES}, got {self.algorithm_type!r} and {self.solver_type!r}"
            )
        if not 1 <= self.solver_order <= 3:
            raise ValueError(
                f"EDMDPMSolverMultistep: solver_order must be 1, 2 or 3, got {self.solver_order}"
            )
        self._formulation = FORMULATIONS[self.algorithm_type]

    def _predicted(self, f: Formulation, y: Array, x: Array, point: Point) -> tuple[Array, Array]:
        x0 = self._x0(y, x, point)
        return x0, x0

    def _counts(self, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
        return multistep(self._formulation, self.solver_type, s, t, points)
