"""The sections of `benchmarks.gpu`: each measures, prints rows as they come, and returns all figures for JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu_bench import Bench
from benchmarks.gpu_checks import measure_checks
from benchmarks.gpu_memory import measure_memory
from benchmarks.gpu_networks import measure_compiled, measure_forward, measure_sampling, measure_step
from benchmarks.gpu_ops import (
    measure_adam,
    measure_attention,
    measure_ceilings,
    measure_convolution,
    measure_group_norm,
)

__all__ = ["SECTIONS"]

# What can be measured, and its part of the time, if all is.
SECTIONS: dict[str, tuple[Callable[[Bench], Any], float]] = {
    "check": (measure_checks, 110),
    "ceilings": (measure_ceilings, 10),
    "group_norm": (measure_group_norm, 25),
    "convolution": (measure_convolution, 75),
    "attention": (measure_attention, 20),
    "adam": (measure_adam, 8),
    "sampling": (measure_sampling, 30),
    "step": (measure_step, 45),
    "forward": (measure_forward, 30),
    "memory": (measure_memory, 12),
    "compiled": (measure_compiled, 75),
}
