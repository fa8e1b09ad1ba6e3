"""Order of convergence of the deterministic samplers on normally distributed images; see benchmarks/convergence.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from benchmarks.convergence import FAMILIES, STEPS, Solver, denoised, error, exact, slope
from minidiff.diffusion import DPMSolverMultistep, Point
from minidiff.diffusion.samplers.exponential import weights

SOLVERS = {f"{family}: {name}": s for family, solvers in FAMILIES.items() for name, s in solvers.items()}


@pytest.mark.parametrize("name", SOLVERS)
def test_order(name: str) -> None:
    solver = SOLVERS[name]
    measured = slope(dict(error(solver, n) for n in STEPS[-3:]))
    assert abs(measured - solver.order) < 0.25


def test_the_known_answer() -> None:
    """It solves dx/dt = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) noise, and the denoiser is a regression."""
    h = 1e-5
    here, near = Point(np.cos(0.7), np.sin(0.7)), Point(np.cos(0.7 + h), np.sin(0.7 + h))
    x = exact(here)
    noise = (x - here.alpha * denoised(x, here)) / here.sigma
    slopes = -here.sigma / here.alpha * x + (here.alpha + here.sigma**2 / here.alpha) * noise
    np.testing.assert_allclose((exact(near) - x) / h, slopes, atol=1e-4)
    assert abs(denoised(exact(Point(1.0, 0.0)), Point(1.0, 0.0)) - exact(Point(1.0, 0.0))).max() < 1e-15


@dataclass(kw_only=True, eq=False, repr=False)
class Whole(DPMSolverMultistep):
    """Without the half that the authors' code and diffusers have before the second derivative."""

    def _counts(self, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
        return weights(self._formulation, s, t, points)


def test_the_third_order_that_is_of_the_second() -> None:
    """DPM-Solver++ with three predictions converges with order 2 in diffusers, and with 3 by the integral."""
    options = {"solver_order": 3, "final_sigmas_type": "sigma_min", "lower_order_final": False}
    orders = {}
    for cls in (DPMSolverMultistep, Whole):
        solver = Solver(lambda cls=cls: cls(prediction_type="sample", use_karras_sigmas=True, **options), 3)
        orders[cls] = slope(dict(error(solver, n) for n in STEPS[-3:]))
    assert orders[DPMSolverMultistep] < 2.2
    assert orders[Whole] > 2.8
