"""NumPy on the CPU, with images channels-last in memory and work shared out to a thread for each core."""

from __future__ import annotations

import numpy as np
from array_api_compat import numpy as xp

from minidiff.backend import Backend
from minidiff_numpy.attention import scaled_dot_product_attention
from minidiff_numpy.convolution import conv2d, conv_transpose2d
from minidiff_numpy.diagnosis import diagnose
from minidiff_numpy.elementwise import gelu, silu, softmax
from minidiff_numpy.joining import add, concat
from minidiff_numpy.lanes import set_num_threads
from minidiff_numpy.linear import linear
from minidiff_numpy.normalization import group_norm
from minidiff_numpy.optimizer import adam, ema, momentum, sgd, square_sum
from minidiff_numpy.random import random_normal, random_words
from minidiff_numpy.resampling import upsample2d

__all__ = ["backend", "diagnose", "set_num_threads"]


def backend() -> Backend:
    """The CPU backend."""
    return Backend(
        device="cpu",
        xp=xp,
        array_type=np.ndarray,
        from_numpy=np.asarray,
        to_numpy=np.asarray,
        kernels={
            "adam": adam,
            "add": add,
            "concat": concat,
            "conv2d": conv2d,
            "conv_transpose2d": conv_transpose2d,
            "ema": ema,
            "gelu": gelu,
            "group_norm": group_norm,
            "linear": linear,
            "momentum": momentum,
            "random_normal": random_normal,
            "random_words": random_words,
            "scaled_dot_product_attention": scaled_dot_product_attention,
            "sgd": sgd,
            "silu": silu,
            "softmax": softmax,
            "square_sum": square_sum,
            "upsample2d": upsample2d,
        },
    )
