"""CUDA kernels on the CPU: a backend "simt" whose arrays are NumPy's in disguise and whose kernels g++ compiles.

The launch code of `minidiff_cupy` runs as it is. `runtime/` is the emulator, with a fiber for each CUDA thread.
"""

from __future__ import annotations

import numpy as np

import minidiff_cupy
from minidiff.backend import Backend, register_backend
from minidiff_cupy import engine
from tests.simt import namespace
from tests.simt.arrays import SimtArray
from tests.simt.emulator import SCHEDULES, EmulatorError, device, schedule, working

__all__ = ["SCHEDULES", "EmulatorError", "SimtArray", "backend", "device", "schedule"]


def backend() -> Backend:
    """The backend "simt", registered.

    Raises
    ------
    BackendUnavailable
        If there is no C++ compiler.
    """
    engine.register(namespace, working())
    made = Backend(
        device="simt",
        xp=namespace,
        array_type=SimtArray,
        from_numpy=lambda host: np.array(host, order="K", subok=False).view(SimtArray),
        to_numpy=lambda x: np.array(x.view(np.ndarray)),
        kernels=minidiff_cupy.KERNELS,
    )
    register_backend(made)
    return made
