"""upsample2d (nearest) on channels-last images."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff_numpy.layout import Array, as_nchw, channels_last, served


def upsample2d(xp: Any, x: Any, scale: int, *, mode: str) -> Any:
    """See `minidiff.ops.upsample2d`; bilinear and half-precision enlargement is left to the generic rule."""
    if mode != "nearest" or not served(x):
        return NotImplemented
    n, c, h, w = x.shape
    y = np.empty((n, h, scale, w, scale, c), x.dtype)
    y[...] = channels_last(x)[:, :, None, :, None, :]

    def vjp(dy: Array) -> tuple[Array]:
        apart = channels_last(dy).reshape(n, h, scale, w, scale, c)
        return (as_nchw(apart.sum(axis=(2, 4))),)

    return as_nchw(y.reshape(n, h * scale, w * scale, c)), vjp
