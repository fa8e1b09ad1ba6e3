"""What the CPU backend computes with: BLAS and threads, and what keeps them from being fast."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minidiff.backend import BackendUnavailable
from minidiff_numpy import lanes

__all__ = ["diagnose"]

CPU_QUOTA = Path(
    "/sys/fs/cgroup/cpu.max"
)  # of a container: microseconds of CPU time, in so many of the clock


def diagnose() -> dict[str, Callable[[], str]]:
    """What `minidiff doctor` asks about this backend."""
    return {"BLAS": _blas, "threads": _threads}


def _blas() -> str:
    from threadpoolctl import threadpool_info

    forced = os.environ.get("OPENBLAS_CORETYPE")
    if forced:
        warnings.warn(
            f"OPENBLAS_CORETYPE={forced} forces OpenBLAS's kernels, which may halve the speed: unset it",
            stacklevel=1,
        )
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    named = f"{built.get('name')} {built.get('version')}"
    loaded = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return "; ".join(_describe(pool) for pool in loaded) or f"{named}, whose threads cannot be counted"


def _describe(pool: dict[str, object]) -> str:
    kernels = f", kernels for {pool['architecture']}" if "architecture" in pool else ""
    return f"{pool['internal_api']} {pool['version']}{kernels}, {pool['num_threads']} threads"


def _threads() -> str:
    try:
        count = lanes.count()
    except ValueError as error:
        raise BackendUnavailable(str(error), "set it to the number of threads to use, or unset it") from error
    quota = _quota()
    if quota < count:
        warnings.warn(
            f"this container may use {quota:g} cores at a time, and {count} threads wait for each other: "
            f"set MINIDIFF_NUM_THREADS={max(1, int(quota))}",
            stacklevel=1,
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{count} of minidiff's own on {cores} cores, with BLAS at one thread meanwhile"


def _quota() -> float:
    """How many cores' time a container is given."""
    try:
        time, period = CPU_QUOTA.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return float("inf")
    return float("inf") if time == "max" else int(time) / int(period)
