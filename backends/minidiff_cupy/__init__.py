"""CuPy on an NVIDIA GPU, with kernels of our own."""

from __future__ import annotations

from typing import Any

from minidiff.backend import Backend, BackendUnavailable, Rule
from minidiff_cupy.allocation import explained
from minidiff_cupy.attention import scaled_dot_product_attention
from minidiff_cupy.convolution import conv2d, conv_transpose2d
from minidiff_cupy.elementwise import (
    add,
    concat,
    divide,
    gelu,
    multiply,
    negative,
    pad,
    relu,
    sigmoid,
    silu,
    square,
    subtract,
    tanh,
)
from minidiff_cupy.embedding import embedding
from minidiff_cupy.graphs import StreamRecorder, compiler
from minidiff_cupy.linear import linear
from minidiff_cupy.normalization import group_norm, layer_norm, rms_norm
from minidiff_cupy.optimizer import (
    adam,
    adam_all,
    clip_all,
    ema,
    ema_all,
    momentum,
    momentum_all,
    sgd,
    sgd_all,
    square_sum,
)
from minidiff_cupy.random import random_normal, random_words
from minidiff_cupy.resampling import avg_pool2d, max_pool2d, upsample2d
from minidiff_cupy.softmax import log_softmax, softmax

__all__ = ["KERNELS", "backend"]

KERNELS: dict[str, Rule] = {
    "adam": adam,
    "adam_all": adam_all,
    "add": add,
    "avg_pool2d": avg_pool2d,
    "clip_all": clip_all,
    "concat": concat,
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "divide": divide,
    "ema": ema,
    "ema_all": ema_all,
    "embedding": embedding,
    "gelu": gelu,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "log_softmax": log_softmax,
    "max_pool2d": max_pool2d,
    "momentum": momentum,
    "momentum_all": momentum_all,
    "multiply": multiply,
    "negative": negative,
    "pad": pad,
    "random_normal": random_normal,
    "random_words": random_words,
    "relu": relu,
    "rms_norm": rms_norm,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "sgd": sgd,
    "sgd_all": sgd_all,
    "sigmoid": sigmoid,
    "silu": silu,
    "softmax": softmax,
    "square": square,
    "square_sum": square_sum,
    "subtract": subtract,
    "tanh": tanh,
    "upsample2d": upsample2d,
}


_EXTRAS = "pip install 'minidiff[cuda12]' ('minidiff[cuda13]' for a CUDA 13 driver)"


def backend() -> Backend:
    """The backend of the current CUDA device.

    Raises
    ------
    BackendUnavailable
        If CuPy, the driver, the GPU or NVRTC is missing.
    """
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(
            f"CuPy cannot be imported ({error})", f"install it with: {_EXTRAS}"
        ) from error
    _require_gpu(cupy)
    _require_compiler()
    return _on(cupy, "cuda", None)


def _require_gpu(cupy: Any) -> None:
    runtime = cupy.cuda.runtime
    driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()  # 12040 is 12.4
    if driver == 0:
        raise BackendUnavailable(
            "there is no NVIDIA driver",
            "install it, so that `nvidia-smi` lists a GPU; in a container, start that with `docker run --gpus all`",
        )
    if driver // 1000 < needed // 1000:
        raise BackendUnavailable(
            f"the NVIDIA driver is for CUDA {driver // 1000}, this CuPy is for CUDA {needed // 1000}",
            "update the driver, or install the CuPy that is made for it",
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise BackendUnavailable(
            f"the NVIDIA driver finds no usable GPU ({error})",
            "`nvidia-smi` must list one; in a container, start that with `docker run --gpus all`",
        ) from error
    if count == 0:
        raise BackendUnavailable(
            "the NVIDIA driver sees no GPU", "check CUDA_VISIBLE_DEVICES and that `nvidia-smi` lists one"
        )


def _require_compiler() -> None:
    from minidiff_cupy import nvrtc

    try:
        nvrtc.version()
    except (ImportError, OSError, RuntimeError) as error:  # CuPy loads the library now
        raise BackendUnavailable(
            f"CuPy finds no NVRTC, CUDA's compiler ({error})", f"install it with: {_EXTRAS}"
        ) from error


def _on(cupy: Any, name: str, number: int | None) -> Backend:
    """The backend of the current device or, made current in this thread, of the device with a number.

    CuPy computes on the current device: its arrays and operators know no other.
    """
    from array_api_compat import cupy as xp

    count = cupy.cuda.runtime.getDeviceCount()
    if number is not None:
        if number >= count:
            raise BackendUnavailable(
                f"there is no {name}: this machine has {count} GPU(s)",
                f"use one of cuda:0 to cuda:{count - 1}",
            )
        cupy.cuda.Device(number).use()

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
        kernels=KERNELS,
        compile=compiler(xp, cupy.ndarray, lambda: StreamRecorder(cupy), lambda: explained(cupy)),
        numbered=lambda index: _on(cupy, f"cuda:{index}", index),
    )
