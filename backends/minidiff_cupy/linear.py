"""linear, as the convolution of images of one pixel."""

from __future__ import annotations

import math
from typing import Any

from minidiff.modes import prepared
from minidiff_cupy.memory import Array, served
from minidiff_cupy.products import Epilogue, Geometry, contiguous, correlate, filters_between, spread
from minidiff_cupy.sums import sum_columns

_PIXEL = Geometry((1, 1), (1, 1), (1, 1), (1, 1), (0, 0), (1, 1))


def linear(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    """See `minidiff.ops.linear`."""
    if not served(x, weight, bias):
        return NotImplemented
    rows = _pixels(xp, x)
    y = correlate(xp, rows, _pixels(xp, weight), _PIXEL, Epilogue(contiguous(xp, bias)))
    o, c = weight.shape

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = _pixels(xp, dy)
        return (
            lambda: spread(xp, d, prepared(weight, "transposed", lambda w: _pixels(xp, w.T)), _PIXEL).reshape(
                x.shape
            ),
            lambda: filters_between(xp, rows, d, _PIXEL).reshape(o, c),
            lambda: sum_columns(xp, d.reshape(1, math.prod(d.shape[:3]), o), d.dtype)[0],
        )

    return y.reshape(*x.shape[:-1], o), vjp


def _pixels(xp: Any, x: Array) -> Array:
    """(..., C) -> (N, 1, 1, C), contiguous."""
    return xp.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), 1, 1, x.shape[-1])
