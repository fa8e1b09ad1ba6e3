"""What the CUDA backend needs of a machine, one question at a time: what is there, or what is missing and its cure.

None of it queues work on a GPU, and all but the questions about the GPU itself are answered without one.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidiff.backend import BackendUnavailable
from minidiff_cupy import cache

__all__ = ["diagnose", "require"]

OLDEST_CUPY = 14  # as the extras say
OLDEST = 75  # compute capability that has the instructions of our kernels
CONTAINER = ("/.dockerenv", "/run/.containerenv")  # Docker's mark, Podman's mark
LOADED_DRIVER = Path("/proc/driver/nvidia/version")  # of the host, in a container too
COMPILED = ("sums.cu", "sum_columns<float, float>")  # a small kernel


def diagnose() -> dict[str, Callable[[], str]]:
    """What `minidiff doctor` asks about this backend."""
    return {
        "CuPy": _describe_cupy,
        "driver": driver,
        "GPU": _describe_gpus,
        "NVRTC": compiler,
        "CUDA headers": headers,
        "compiling": _compile,
        "cuBLAS": _cublas,
        "kernel cache": _cache,
    }


def require() -> Any:
    """CuPy, if all is there that the backend needs.

    Raises
    ------
    BackendUnavailable
        With the first thing that is missing.
    """
    for ask in (gpu, compiler, headers):
        ask()
    return cupy_for()[0]


def cupy_for() -> tuple[Any, int]:
    """CuPy, and the major version of CUDA that it was made for.

    Raises
    ------
    BackendUnavailable
        If it is not installed, cannot be imported, or is too old.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        instead = "; in a container, run the image of docker/Dockerfile, as that for the CPU has neither CuPy nor pip"
        raise BackendUnavailable(
            f"CuPy cannot be imported ({error})",
            f"install it with: {_extra(driver_version() // 1000)}{instead if _in_container() else ''}",
        ) from error
    except OSError as error:  # it makes its folder for kernels when it is imported
        raise _no_cache(error) from error
    cuda = cupy.cuda.runtime.runtimeGetVersion() // 1000
    if int(cupy.__version__.partition(".")[0]) < OLDEST_CUPY:
        raise BackendUnavailable(
            f"CuPy {cupy.__version__} is too old, the backend needs {OLDEST_CUPY}",
            f"install a newer one with: {_extra(cuda)}",
        )
    return cupy, cuda


def driver_version() -> int:
    """The newest CUDA that the NVIDIA driver runs, 12040 for 12.4; 0 without a driver."""
    version = ctypes.c_int(0)
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value


def driver() -> str:
    """Which CUDA the driver is for.

    Raises
    ------
    BackendUnavailable
        If there is none, or it is too old for the CuPy that is installed.
    """
    version = driver_version()
    if version == 0:
        raise _no_driver()
    _, needed = cupy_for()
    if version // 1000 < needed:
        older = f", or install the CuPy that is made for it: pip uninstall cupy-cuda{needed}x; {_extra(12)}"
        raise BackendUnavailable(
            f"the NVIDIA driver is for CUDA {version // 1000}, this CuPy is for CUDA {needed}",
            f"update the driver{older if version >= 12000 else ''}",  # no CuPy of ours is for an older one
        )
    return f"for CUDA {_dotted(version)} and older"


def _no_driver() -> BackendUnavailable:
    loaded = LOADED_DRIVER.exists()
    if _in_container():
        return BackendUnavailable(
            "this container was started without the NVIDIA driver of its host"
            if loaded
            else "there is no NVIDIA driver in this container",
            "start it with `docker run --gpus all` (on a host with a GPU, its driver and NVIDIA's container toolkit)",
        )
    if loaded:
        return BackendUnavailable(
            "the NVIDIA driver is loaded, but its library libcuda.so.1 is not found",
            "install it, in the driver's own version (Debian and Ubuntu: libcuda1, libnvidia-compute)",
        )
    return BackendUnavailable(
        "there is no NVIDIA driver",
        "install it, so that `nvidia-smi` lists a GPU; in a container, start that with `docker run --gpus all`",
    )


def _in_container() -> bool:
    return any(map(os.path.exists, CONTAINER))


def gpu() -> None:
    """Nothing, if the current GPU can be used.

    Raises
    ------
    BackendUnavailable
        If there is none, or it is too old.
    """
    driver()
    cupy, _ = cupy_for()
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f"; CUDA_VISIBLE_DEVICES={visible!r} may hide it: unset it"
        raise BackendUnavailable(
            f"the NVIDIA driver finds no usable GPU ({error})",
            f"`nvidia-smi` must list one; in a container, start that with `docker run --gpus all`{hidden}",
        ) from error
    if count == 0:
        raise BackendUnavailable(
            "the NVIDIA driver sees no GPU", "check CUDA_VISIBLE_DEVICES and that `nvidia-smi` lists one"
        )
    capability = int(cupy.cuda.Device().compute_capability)
    if capability < OLDEST:
        raise BackendUnavailable(
            f"the GPU has compute capability {capability / 10}, the kernels need {OLDEST / 10}",
            "use a GPU of 2018 or later (Turing: GeForce RTX 20, T4)",
        )


def _describe_gpus() -> str:
    gpu()
    cupy, _ = cupy_for()
    runtime, found = cupy.cuda.runtime, []
    for number in range(runtime.getDeviceCount()):
        device = cupy.cuda.Device(number)
        free, total = (size / 2**30 for size in device.mem_info)
        name, capability = (
            runtime.getDeviceProperties(number)["name"].decode(),
            int(device.compute_capability),
        )
        found.append(f"{name}, compute capability {capability / 10}, {free:.1f} of {total:.1f} GiB free")
    return "; ".join(found)


def compiler() -> str:
    """The version of NVRTC.

    Raises
    ------
    BackendUnavailable
        If CuPy does not find it.
    """
    from minidiff_cupy import nvrtc

    _, cuda = cupy_for()
    try:
        return ".".join(map(str, nvrtc.version()))
    except (ImportError, OSError, RuntimeError) as error:  # CuPy loads the library now
        cause = str(error).partition("\n")[0]
        raise BackendUnavailable(
            f"CuPy finds no NVRTC, CUDA's compiler ({cause})", f"install it with: {_extra(cuda)}"
        ) from error


def headers() -> str:
    """The folder with the headers of CUDA, which CuPy's own kernels include (ours do not).

    Raises
    ------
    BackendUnavailable
        If CuPy does not find it.
    """
    _, cuda = cupy_for()
    from cuda.pathfinder import find_nvidia_header_directory  # which CuPy, too, asks

    path = find_nvidia_header_directory("cudart")
    if path is None:
        raise BackendUnavailable(
            "CuPy finds no headers of CUDA for its own kernels", f"install them with: {_extra(cuda)}"
        )
    return str(path)


def _describe_cupy() -> str:
    cupy, _ = cupy_for()
    return f"{cupy.__version__}, for CUDA {_dotted(cupy.cuda.runtime.runtimeGetVersion())}"


def _compile() -> str:
    from minidiff_cupy import nvrtc

    compiler()
    file, name = COMPILED
    target, start = nvrtc.target(80, nvrtc.architectures()), time.perf_counter()
    binary = nvrtc.compile(file, [name], target)
    return f"{file} for {target} in {time.perf_counter() - start:.2f} s, {len(binary.code):,} bytes"


def _cublas() -> str:
    cupy_for()
    try:
        from cupy.cuda import cublas  # noqa: F401 (loads the library)
    except ImportError:
        warnings.warn(
            "matmul, tensordot and products in float64 need it, networks in float32, float16 and bfloat16 do not; "
            + no_cublas().fix,
            stacklevel=1,
        )
        return "not installed"
    return "found"


def no_cublas() -> BackendUnavailable:
    """What to say when CuPy does not find cuBLAS for a product of matrices."""
    _, cuda = cupy_for()
    return BackendUnavailable(
        "this product of matrices needs cuBLAS, which CuPy does not find",
        f"install it with: pip install 'cuda-toolkit[cublas]=={cuda}.*'",
    )


def _cache() -> str:
    try:
        folder = cache.folder()
        cache.write(folder / "doctor", b"")
        (folder / "doctor").unlink(missing_ok=True)
    except OSError as error:
        raise _no_cache(error) from error
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    return f"{folder}: {len(sizes):,} files, {sum(sizes) / 2**20:.1f} MiB"


def _no_cache(error: OSError) -> BackendUnavailable:
    return BackendUnavailable(
        f"compiled kernels cannot be kept ({error})", "set CUPY_CACHE_DIR to a folder that can be written to"
    )


def _extra(cuda: int) -> str:
    """The command that installs what is needed for this major version of CUDA; 0: not known."""
    if cuda == 0:
        return "pip install 'minidiff[cuda12]' ('minidiff[cuda13]' for a CUDA 13 driver)"
    return f"pip install 'minidiff[cuda{min(max(cuda, 12), 13)}]'"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
