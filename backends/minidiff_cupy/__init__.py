"""CuPy on an NVIDIA GPU. Every op runs by its generic rule; there are no kernels of our own yet."""

from __future__ import annotations

from typing import Any

from minidiff.backend import Backend, BackendUnavailable

__all__ = ["backend"]


def backend() -> Backend:
    """The backend of the current CUDA device.

    Raises
    ------
    BackendUnavailable
        If CuPy, the driver or the GPU is missing.
    """
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(
            f"CuPy cannot be imported ({error})",
            "install it with: pip install 'minidiff[cuda12]' ('minidiff[cuda13]' for a CUDA 13 driver)",
        ) from error
    _require_gpu(cupy)
    return _on(cupy, "cuda", None)


def _require_gpu(cupy: Any) -> None:
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable(
            f"no usable NVIDIA driver or GPU ({error})",
            "`nvidia-smi` must list a GPU; in a container, start it with `docker run --gpus all`",
        ) from error
    if count == 0:
        raise BackendUnavailable(
            "the NVIDIA driver sees no GPU", "check CUDA_VISIBLE_DEVICES and that `nvidia-smi` lists one"
        )


def _on(cupy: Any, name: str, number: int | None) -> Backend:
    from array_api_compat import cupy as xp

    count = cupy.cuda.runtime.getDeviceCount()
    if number is not None and number >= count:
        raise BackendUnavailable(
            f"there is no {name}: this machine has {count} GPU(s)", f"use one of cuda:0 to cuda:{count - 1}"
        )

    def from_numpy(host: Any) -> Any:
        with cupy.cuda.Device(number):
            return cupy.asarray(host)

    def synchronize() -> None:
        cupy.cuda.Device(number).synchronize()

    return Backend(
        device=name,
        xp=xp,
        array_type=cupy.ndarray,
        from_numpy=from_numpy,
        to_numpy=cupy.asnumpy,
        synchronize=synchronize,
        numbered=lambda index: _on(cupy, f"cuda:{index}", index),
    )
