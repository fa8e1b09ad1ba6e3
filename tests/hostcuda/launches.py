"""Modules, functions and launches: arguments are read as CUDA reads them, from the bytes that CuPy packed."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cupy_backends.cuda.api.driver import CUDADriverError

from tests.hostcuda import kernels, streams
from tests.hostcuda.device import MAX_UNASKED
from tests.simt.emulator import MAX_BLOCK, MAX_GRID, MAX_SHARED, SCHEDULES, EmulatorError

__all__ = ["FUNCTIONS"]

MAX_THREADS, MAX_DYNAMIC_SHARED = 0, 8  # CUfunction_attribute
LARGEST = 64  # bytes, at whose multiples arguments are put


class InvalidValue(CUDADriverError):
    """As CuPy's own, which would ask the driver's library what it is called."""

    def __init__(self) -> None:
        RuntimeError.__init__(self, "CUDA_ERROR_INVALID_VALUE: invalid argument")


@dataclass
class Function:
    """A kernel as its module gives it."""

    kernel: kernels.Kernel
    attributes: dict[int, int] = field(
        default_factory=lambda: {MAX_THREADS: 1024, MAX_DYNAMIC_SHARED: MAX_UNASKED}
    )


_modules: dict[int, bytes] = {}
_functions: dict[int, Function] = {}


def _load(code: bytes) -> int:
    module = next(streams.handles)
    _modules[module] = bytes(code)
    return module


def _function(module: int, name: str) -> int:
    function = next(streams.handles)
    _functions[function] = Function(kernels.load(_modules[module], name))
    return function


def _ask(function: int, attribute: int, value: int) -> None:
    if attribute == MAX_DYNAMIC_SHARED and value > MAX_SHARED:
        raise InvalidValue
    _functions[function].attributes[attribute] = value


def _launch(function: int, *given: int) -> None:
    grid, block, (shared, stream, addresses, _) = given[:3], given[3:6], given[6:]
    limits = zip((*grid, *block), (*MAX_GRID, *MAX_BLOCK), strict=True)
    asked = _functions[function].attributes
    if (
        not all(0 < n <= most for n, most in limits)
        or math.prod(block) > asked[MAX_THREADS]
        or shared > max(MAX_UNASKED, asked[MAX_DYNAMIC_SHARED])
    ):
        raise InvalidValue
    kernel = _functions[function].kernel
    arguments = _Arguments(addresses, [size for _, size in kernel.loaded.parameters])
    if not kernel.together:
        grid = block = (1, 1, 1)  # its loop goes over all elements, however many threads there are
    sizes = [(ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block)]

    def run() -> None:
        error = kernel.loaded.run(*sizes, arguments.pointers, shared, SCHEDULES[0])
        if error:
            raise EmulatorError(f"{kernel.name}: {error}")

    streams.add(stream, run, arguments.words)


class _Arguments:
    """A copy of a launch's arguments, each at an address that suits any type."""

    def __init__(self, addresses: int, sizes: list[int]) -> None:
        steps = [-(-size // LARGEST) * LARGEST for size in sizes]
        self._used = sum(steps)
        self._memory = np.zeros(self._used + LARGEST, np.uint8)
        at = self._memory.ctypes.data
        at += -at % LARGEST
        self.pointers = (ctypes.c_void_p * max(1, len(sizes)))()
        given = (ctypes.c_void_p * len(sizes)).from_address(addresses) if sizes else ()
        for i, (from_, size, step) in enumerate(zip(given, sizes, steps, strict=True)):
            ctypes.memmove(at, from_, size)
            self.pointers[i] = at
            at += step

    def words(self) -> list[int]:
        """All that may be an address in them, in structures, too."""
        start = -self._memory.ctypes.data % LARGEST
        return self._memory[start : start + self._used].view(np.uint64).tolist()


FUNCTIONS: dict[str, Any] = {
    "moduleLoad": lambda path: _load(Path(path).read_bytes()),
    "moduleLoadData": _load,
    "moduleUnload": lambda module: None,
    "moduleGetFunction": _function,
    "funcGetAttribute": lambda attribute, function: _functions[function].attributes[attribute],
    "funcSetAttribute": _ask,
    "launchKernel": _launch,
}  # of cupy_backends.cuda.api.driver
