"""How fast the deterministic samplers converge, measured where the answer is known: `python -m benchmarks.convergence`.

Of normally distributed images the best denoiser and the probability-flow ODE's solution are formulas. So the error
of a sampler with that denoiser is its own, and falls with the power of the step that is the sampler's order. It
writes results/convergence.json and docs/pictures/convergence.png.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import save
from minidiff.diffusion import (
    DDIM,
    DEIS,
    KDPM2,
    LMS,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    EDMHeun,
    Euler,
    FlowMatchEuler,
    FlowMatchHeun,
    Heun,
    Point,
    Sampler,
    UniPC,
)

__all__ = ["FAMILIES", "STEPS", "Solver", "error", "slope"]

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "convergence.png"
STEPS = (10, 20, 40, 80, 160, 320)

Images = NDArray[np.float64]

MEANS = np.linspace(-0.6, 0.6, 16).reshape(1, 16, 1, 1)
STDS = np.linspace(0.2, 1.0, 16).reshape(1, 16, 1, 1)
NOISE = np.sin(np.arange(1.0, 17.0)).reshape(1, 16, 1, 1) * 1.4


def exact(point: Point) -> Images:
    """The solution of the probability-flow ODE that belongs to NOISE."""
    x: Images = point.alpha * MEANS + np.sqrt((point.alpha * STDS) ** 2 + point.sigma**2) * NOISE
    return x


def denoised(x: Images, point: Point) -> Images:
    """E[x_0 | x_t]."""
    variance = (point.alpha * STDS) ** 2 + point.sigma**2
    return MEANS + point.alpha * STDS**2 / variance * (x - point.alpha * MEANS)


def as_sample(sampler: Any, x: Images, x0: Images, point: Point) -> Images:
    """A network that says x_0."""
    return x0


def as_velocity(sampler: Any, x: Images, x0: Images, point: Point) -> Images:
    """A network that says noise - x_0, where alpha + sigma = 1."""
    return (x - x0) / point.sigma


def as_preconditioned(sampler: Any, x: Images, x0: Images, point: Point) -> Images:
    """A network inside EDM's preconditioning."""
    data, sigma = sampler.sigma_data, point.sigma
    f: Images = (x0 * (sigma**2 + data**2) - data**2 * x) / (sigma * data * (sigma**2 + data**2) ** 0.5)
    return f


@dataclass(frozen=True)
class Solver:
    """A sampler, its order, and what its network says."""

    make: Callable[[], Sampler]
    order: int
    says: Callable[[Any, Images, Images, Point], Images] = as_sample


def _karras(cls: type[Any], **options: Any) -> Callable[[], Sampler]:
    """Over the sigmas of Karras et al., whose steps in log(alpha / sigma) differ: even ones flatter some methods."""
    return lambda: cls(prediction_type="sample", use_karras_sigmas=True, **options)


_MULTI = {"final_sigmas_type": "sigma_min", "lower_order_final": False}

FAMILIES: dict[str, dict[str, Solver]] = {
    "over sigma": {
        "Euler": Solver(_karras(Euler), 1),
        "Heun": Solver(_karras(Heun), 2),
        "KDPM2": Solver(_karras(KDPM2), 2),
        "LMS": Solver(_karras(LMS), 4),
    },
    "DPM-Solver++": {
        "order 1": Solver(_karras(DPMSolverMultistep, solver_order=1, **_MULTI), 1),
        "multistep, solver_order 2": Solver(_karras(DPMSolverMultistep, solver_order=2, **_MULTI), 2),
        "multistep, solver_order 3": Solver(_karras(DPMSolverMultistep, solver_order=3, **_MULTI), 2),
        "singlestep, solver_order 2": Solver(_karras(DPMSolverSinglestep, solver_order=2, **_MULTI), 2),
        "singlestep, solver_order 3": Solver(
            _karras(DPMSolverSinglestep, solver_order=3, solver_type="heun", **_MULTI), 3
        ),
    },
    "UniPC and DEIS": {
        "DEIS, solver_order 2": Solver(_karras(DEIS, solver_order=2, lower_order_final=False), 2),
        "DEIS, solver_order 3": Solver(_karras(DEIS, solver_order=3, lower_order_final=False), 3),
        "UniPC, solver_order 1": Solver(_karras(UniPC, solver_order=1, **_MULTI), 2),
        "UniPC, solver_order 2": Solver(_karras(UniPC, solver_order=2, **_MULTI), 3),
        "UniPC, solver_order 3": Solver(_karras(UniPC, solver_order=3, **_MULTI), 4),
    },
    "other paths": {
        "DDIM": Solver(lambda: DDIM(prediction_type="sample", clip_sample=False), 1),
        "FlowMatchEuler": Solver(FlowMatchEuler, 1, as_velocity),
        "FlowMatchHeun": Solver(FlowMatchHeun, 2, as_velocity),
        "EDMHeun": Solver(EDMHeun, 2, as_preconditioned),
    },
}


def error(solver: Solver, n: int) -> tuple[int, float]:
    """Calls of the network, and the root mean square error, in n steps but the last.

    The last one leads to the clean image, by a formula of order 1 and from noise that is hardly there.
    """
    sampler: Any = solver.make()
    sampler.set_timesteps(n)
    *calls, _ = zip(sampler.timesteps, sampler.points, strict=False)
    x = exact(sampler.points[0])
    for t, point in calls:
        y = solver.says(sampler, x, denoised(x, point), point)
        x = sampler.step(y, t, x).prev_sample
    return len(calls), float(np.sqrt(np.mean((x - exact(sampler.points[-2])) ** 2)))


def slope(errors: dict[int, float]) -> float:
    """The power of the number of calls with which the error falls, from the last but two to the last."""
    first, _, last = sorted(errors)[-3:]
    return log(errors[first] / errors[last]) / log(last / first)


def main() -> None:
    """Measure, write the figures, and draw them."""
    figures: dict[str, Any] = {}
    for family, solvers in FAMILIES.items():
        figures[family] = {}
        for name, solver in solvers.items():
            errors = dict(error(solver, n) for n in STEPS)
            figures[family][name] = {
                "order": solver.order,
                "slope": round(slope(errors), 3),
                "errors": {calls: float(f"{e:.4g}") for calls, e in errors.items()},
            }
            print(f"{family:16} {name:24} order {solver.order}, measured {slope(errors):.2f}")
    print(
        save(
            "convergence",
            {"data": "normal, 16 pixels of different mean and standard deviation", "families": figures},
        )
    )
    draw(figures)
    print(PICTURE)


def draw(figures: dict[str, Any]) -> None:
    """A panel for each family: the error over calls of the network, and the measured order beside each name."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure = Figure(figsize=(9, 7), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, (family, solvers) in zip(panels, figures.items(), strict=True):
        for (name, row), marker in zip(solvers.items(), "osD^v", strict=False):
            label = f"{name}: {row['slope']:.1f}"
            axes.loglog(
                row["errors"].keys(), row["errors"].values(), marker=marker, markersize=4, label=label
            )
        axes.set_title(family, fontsize=10)
        axes.set_xticks([10, 30, 100, 300])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.grid(alpha=0.3)
        legend = axes.legend(frameon=False, fontsize=8, loc="lower left", title="sampler: measured order")
        legend.set_alignment("left")
        legend.get_title().set_fontsize(8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("calls of the network", fontsize=10)
    figure.supylabel("root mean square error of the sample", fontsize=10)
    figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
