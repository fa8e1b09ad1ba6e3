"""The device that CuPy finds: in all numbers an H100, of whose memory there is less."""

from __future__ import annotations

from typing import Any

from tests.hostcuda import memory
from tests.simt.emulator import MAX_SHARED

__all__ = ["DRIVER", "FUNCTIONS", "MAX_UNASKED"]

DRIVER = 13000  # the newest CUDA that the driver runs, 13.0
MAX_UNASKED = 48 * 1024  # bytes of shared memory that a block gets without asking
ATTRIBUTES = {
    1: 1024,  # threads of a block, along x, y, z
    2: 1024,
    3: 1024,
    4: 64,
    5: 2**31 - 1,  # blocks, along x, y, z
    6: 65535,
    7: 65535,
    8: MAX_UNASKED,
    10: 32,  # threads of a warp
    12: 65536,  # registers of a block
    16: 132,  # multiprocessors
    38: 50 << 20,  # bytes of L2
    39: 2048,  # threads of a multiprocessor
    75: 9,  # compute capability 9.0
    76: 0,
    97: MAX_SHARED,  # that a block may ask for
    115: 1,  # memory pools, which CuPy asks for
}  # cudaDeviceAttr


def _properties(number: int) -> dict[str, Any]:
    return {
        "name": b"an H100 in host memory",
        "major": ATTRIBUTES[75],
        "minor": ATTRIBUTES[76],
        "multiProcessorCount": ATTRIBUTES[16],
        "totalGlobalMem": memory.TOTAL,
        "l2CacheSize": ATTRIBUTES[38],
        "warpSize": ATTRIBUTES[10],
        "sharedMemPerBlock": MAX_UNASKED,
        "maxThreadsPerBlock": ATTRIBUTES[1],
    }


FUNCTIONS = {
    "_ensure_context": lambda: None,
    "driverGetVersion": lambda: DRIVER,
    "getDevice": lambda: 0,
    "getDeviceCount": lambda: 1,
    "setDevice": lambda number: None,
    "deviceCanAccessPeer": lambda number, other: 0,
    "deviceGetAttribute": lambda attribute, number: ATTRIBUTES.get(attribute, 0),
    "getDeviceProperties": _properties,
}  # of cupy_backends.cuda.api.runtime
