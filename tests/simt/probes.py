"""Kernels that tests of the emulator write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minidiff_cupy import sources
from tests import simt
from tests.simt import namespace as xp
from tests.simt.emulator import Emulator

__all__ = ["FULL", "NUMBERS", "emulator_in", "kernel", "run"]

FULL = "0xffffffffu"
NUMBERS = (sources.FOLDER / "numbers.cuh").read_text()


def emulator_in(folder: Path, schedule: str) -> Emulator:
    """An emulator of its own, for kernels in a folder."""
    simt.backend()
    made = Emulator(folder)
    made.schedule = schedule
    (folder / "numbers.cuh").write_text(NUMBERS)
    return made


def kernel(
    emulator: Emulator, body: str, *, parameters: str = "float* y", options: Any = ()
) -> Callable[..., None]:
    """`body` as a kernel; lines count from 2."""
    text = f'#include "numbers.cuh"\n__global__ void k({parameters}) {{{body}}}\n'
    (emulator.folder / "k.cu").write_text(text)
    sources.read.cache_clear()
    emulator._kernels.clear()
    return emulator.load("k.cu", "k", tuple(options))


def run(
    emulator: Emulator, body: str, *, threads: int = 64, blocks: int = 1, shared: int = 0, **more: Any
) -> Any:
    """The array `y`, which has a number for each thread, after a launch."""
    y = xp.empty(threads * blocks, dtype=np.float32)
    kernel(emulator, body, **more)((blocks,), (threads,), (y,), shared_mem=shared)
    return y.view(np.ndarray)
