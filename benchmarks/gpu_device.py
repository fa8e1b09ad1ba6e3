"""What `benchmarks.gpu` measures with: events, a stream and memory of a GPU. No other file of it needs CuPy."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np

from minidiff.backend import Array, Backend, get_backend

__all__ = ["CudaDevice", "Device"]

_HOLD = r"""
extern "C" __global__ void hold(unsigned long long nanoseconds) {
    unsigned long long begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - begin < nanoseconds);
}
"""


class Device(Protocol):
    """A device whose time and memory can be measured.

    Attributes
    ----------
    backend : Backend
    cache_bytes : int
        What the cache between multiprocessors and memory holds.
    torch_device : str
        What PyTorch calls it.
    """

    backend: Backend
    cache_bytes: int
    torch_device: str

    def describe(self) -> dict[str, Any]:
        """Its name under "gpu"; driver, versions, sizes."""

    def one_stream(self) -> Any:
        """A context in which minidiff and PyTorch queue all work on one stream."""

    def elapsed(self, run: Callable[[], object], hold: float = 0.0) -> float:
        """Seconds that pass on the device until it has done what `run()` queues.

        The device is held back for `hold` seconds first, so that the host can queue work ahead; where that is long
        enough, launching takes no part in the time.
        """

    def free_bytes(self) -> int:
        """Of its memory."""

    def release(self) -> None:
        """Give back the memory that nobody uses."""

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """The most memory that `run()` took from the device, with what it returns kept until then."""

    def library_product(self, a: Array, b: Array) -> Array:
        """Matrices multiplied by the vendor's library, float32 ones in TF32."""


class CudaDevice:
    """The current CUDA device.

    Raises
    ------
    BackendUnavailable
        If CuPy, the driver or the GPU is missing.
    """

    torch_device = "cuda"

    def __init__(self) -> None:
        self.backend = get_backend("cuda")
        import cupy

        self._cupy = cupy
        self._properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self._hold = cupy.RawKernel(_HOLD, "hold")
        self.cache_bytes = int(self._properties["l2CacheSize"])

    def describe(self) -> dict[str, Any]:
        """See `Device`."""
        from minidiff_cupy import nvrtc

        runtime, properties = self._cupy.cuda.runtime, self._properties
        return {
            "gpu": properties["name"].decode(),
            "compute capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": properties["multiProcessorCount"],
            "memory GB": round(properties["totalGlobalMem"] / 1e9, 1),
            "L2 MB": round(self.cache_bytes / 1e6, 1),
            "driver": _driver_version(runtime.driverGetVersion()),
            "CUDA runtime": _version(runtime.runtimeGetVersion()),
            "NVRTC": ".".join(map(str, np.atleast_1d(nvrtc.version()))),
            "cupy": self._cupy.__version__,
        }

    @contextmanager
    def one_stream(self) -> Iterator[None]:
        """See `Device`."""
        stream = self._cupy.cuda.Stream(non_blocking=True)
        with ExitStack() as stack:
            stack.enter_context(stream)
            if importlib.util.find_spec("torch") is not None:
                import torch

                if torch.cuda.is_available():
                    stack.enter_context(torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)))
            yield

    def elapsed(self, run: Callable[[], object], hold: float = 0.0) -> float:
        """See `Device`."""
        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        if hold:
            self._hold((1,), (1,), (np.uint64(hold * 1e9),))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) / 1e3

    def free_bytes(self) -> int:
        """See `Device`."""
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def release(self) -> None:
        """See `Device`."""
        gc.collect()
        self.backend.synchronize()
        self._cupy.get_default_memory_pool().free_all_blocks()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()

    def peak_bytes(self, run: Callable[[], object]) -> int:
        """See `Device`; pools of memory, PyTorch's too, keep what they took until they are asked to give it back."""
        self.release()
        before = self.free_bytes()
        kept = run()
        self.backend.synchronize()
        peak = before - self.free_bytes()
        del kept
        return peak

    def library_product(self, a: Array, b: Array) -> Array:
        """See `Device`; cuBLAS."""
        from cupy._core import _routines_linalg as core

        before = core.get_compute_type("f")
        core.set_compute_type("f", core.COMPUTE_TYPE_TF32)
        try:
            return self._cupy.matmul(a, b)
        finally:
            core.set_compute_type("f", before)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver_version(number: int) -> str:
    """Of the driver itself where Linux tells, and of the CUDA that it knows."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            words = file.readline().split()
        own = next(word for word in words if word[0].isdigit() and word.count(".") >= 1)
    except (OSError, StopIteration):
        return f"CUDA {_version(number)}"
    return f"{own} (CUDA {_version(number)})"
