"""CuPy on an NVIDIA GPU, with kernels of our own."""

from __future__ import annotations

from functools import partial
from typing import Any

from minidiff.backend import Backend, BackendUnavailable, Rule
from minidiff_cupy.allocation import explained
from minidiff_cupy.attention import scaled_dot_product_attention
from minidiff_cupy.convolution import conv2d, conv_transpose2d
from minidiff_cupy.diagnosis import diagnose, require
from minidiff_cupy.elementwise import (
    add,
    clip,
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
from minidiff_cupy.linear_combination import linear_combination
from minidiff_cupy.namespace import namespace
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
from minidiff_cupy.placement import placed
from minidiff_cupy.random import random_normal, random_words
from minidiff_cupy.resampling import avg_pool2d, max_pool2d, upsample2d
from minidiff_cupy.softmax import log_softmax, softmax

__all__ = ["KERNELS", "backend", "diagnose"]

KERNELS: dict[str, Rule] = {
    "adam": adam,
    "adam_all": adam_all,
    "add": add,
    "avg_pool2d": avg_pool2d,
    "clip": clip,
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
    "linear_combination": linear_combination,
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


def backend() -> Backend:
    """The backend of the current CUDA device.

    Raises
    ------
    BackendUnavailable
        If CuPy, the driver, the GPU, NVRTC or the headers of CUDA are missing.
    """
    return _on(require(), "cuda", None)


def _on(cupy: Any, name: str, number: int | None) -> Backend:
    """The backend of the current device or, made current in this thread, of the device with a number.

    Kernels, compiled functions and transfers run where their arrays are. What CuPy's own operators and functions do
    outside of them they do on the current device.
    """
    from array_api_compat import cupy as compat

    xp, count = namespace(compat), cupy.cuda.runtime.getDeviceCount()
    if number is not None:
        if number >= count:
            raise BackendUnavailable(
                f"there is no {name}: this machine has {count} GPU(s)",
                f"use one of cuda:0 to cuda:{count - 1}",
            )
        cupy.cuda.Device(number).use()
    place = partial(placed, cupy, number) if count > 1 else lambda function: function
    compile = compiler(xp, cupy.ndarray, lambda: StreamRecorder(cupy), lambda: explained(cupy))
    return Backend(
        device=name,
        xp=xp,
        array_type=cupy.ndarray,
        from_numpy=place(cupy.asarray),
        to_numpy=place(cupy.asnumpy),
        synchronize=lambda: cupy.cuda.Device(number).synchronize(),
        kernels={key: place(rule) for key, rule in KERNELS.items()},
        compile=lambda fn: place(compile(fn)),
        numbered=lambda index: _on(cupy, f"cuda:{index}", index),
    )
