"""NumPy on the CPU, with images channels-last in memory and work shared out to a thread for each core."""

from __future__ import annotations

import numpy as np
from array_api_compat import numpy as xp

from minidiff.backend import Backend
from minidiff_numpy.convolution import conv2d, conv_transpose2d
from minidiff_numpy.lanes import set_num_threads
from minidiff_numpy.linear import linear
from minidiff_numpy.normalization import group_norm
from minidiff_numpy.random import random_normal, random_words
from minidiff_numpy.resampling import upsample2d

__all__ = ["backend", "set_num_threads"]


def backend() -> Backend:
    """The CPU backend."""
    return Backend(
        device="cpu",
        xp=xp,
        array_type=np.ndarray,
        from_numpy=np.asarray,
        to_numpy=np.asarray,
        kernels={
            "conv2d": conv2d,
            "conv_transpose2d": conv_transpose2d,
            "group_norm": group_norm,
            "linear": linear,
            "random_normal": random_normal,
            "random_words": random_words,
            "upsample2d": upsample2d,
        },
    )
