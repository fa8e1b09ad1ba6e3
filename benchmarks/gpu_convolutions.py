"""Convolutions for the checks of `benchmarks.gpu`: on an H100 the gradient of their filters takes every tile."""

from __future__ import annotations

from benchmarks.gpu_bench import Plan
from minidiff.testing import Case
from minidiff.testing.case import case, normal

__all__ = ["convolutions"]

# Channels, filters, both in channels of the plan, and the kernel's side.
SIZES = ((1, 1, 3), (3, 1, 3), (1, 2, 1), (2, 2, 3), (4, 4, 3))


def convolutions(plan: Plan) -> list[Case]:
    """One for every tile, and two that are ragged everywhere."""
    n, c, side = plan.batch, plan.channels, plan.side
    return [
        *(
            case("conv2d", normal(n, i * c, side, side), normal(o * c, i * c, k, k), padding=k // 2)
            for i, o, k in SIZES
        ),
        case(
            "conv2d",
            normal(3, 2 * (c + 8), side - 1, side + 3),
            normal(2 * (c + 24), c + 8, 3, 2),
            stride=(2, 1),
            padding=(1, 2),
            groups=2,
        ),
        case(
            "conv2d",
            normal(2, 4 * c + 8, side + 1, side),
            normal(4 * c + 24, 4 * c + 8, 2, 3),
            stride=(1, 3),
            padding=(1, 3),
            dilation=(1, 2),
        ),
    ]
