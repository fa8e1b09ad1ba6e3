"""add and concat of large arrays on the lanes; the result lies in memory as the first operand does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.blocks import parts
from minidiff_numpy.layout import Array, as_nchw, channels_last, served
from minidiff_numpy.memory import empty, empty_like

_LARGE = 1 << 17  # elements: with fewer, the rule is as fast
_COST = 50  # multiplications that take as long as one element


def _by_parts(function: Callable[..., object], y: Array, *arrays: Array) -> None:
    """Call `function(*arrays, y)` for parts of arrays that can be broadcast to `y`, cut along its outermost axis."""
    axis = max((i for i in range(y.ndim) if y.shape[i] > 1), key=lambda i: y.strides[i], default=0)

    def part(some: slice) -> None:
        key = (*(slice(None),) * axis, some)
        function(*(a[key] if a.shape[axis] > 1 else a for a in (*arrays, y)))

    length = y.shape[axis]
    lanes.each(part, parts(length, y.size // length, least=lanes.count()), multiplications=_COST * y.size)


def add(xp: Any, x1: Any, x2: Any) -> Any:
    """See `minidiff.ops.add`; arrays of one shape, and images (N, C, H, W) to which (N, C, 1, 1) is added."""
    arrays = isinstance(x1, np.ndarray) and isinstance(x2, np.ndarray) and served(x1, x2)
    if not arrays or x1.size < _LARGE or not (x1.shape == x2.shape or _is_shift(x2, x1)):
        return NotImplemented
    y = empty_like(x1)
    _by_parts(lambda a, b, out: np.add(a, b, out=out), y, x1, x2)
    if x1.shape == x2.shape:
        return y, lambda dy: (dy, dy)
    return y, lambda dy: (dy, lambda: _sum_pixels(dy))


def _is_shift(x: Array, images: Array) -> bool:
    return images.ndim == 4 and x.shape == (*images.shape[:2], 1, 1)


def _sum_pixels(images: Array) -> Array:
    """Images (N, C, H, W) to the sums of their channels (N, C, 1, 1)."""
    n, c, h, w = images.shape
    rows = channels_last(images).reshape(n, h * w, c)
    y = np.empty((n, 1, c), images.dtype)
    ones = np.ones((1, h * w), images.dtype)
    _by_parts(lambda x, out: np.matmul(ones, x, out=out), y, rows)
    return as_nchw(y.reshape(n, 1, 1, c))


def concat(xp: Any, *arrays: Any, axis: int) -> Any:
    """See `minidiff.ops.concat`; arrays of one dtype."""
    first = arrays[0]
    axis %= max(1, first.ndim)
    if sum(a.size for a in arrays) < _LARGE or any(a.dtype != first.dtype for a in arrays):
        return NotImplemented
    lengths = [a.shape[axis] for a in arrays]
    before = (slice(None),) * axis
    keys = [(*before, slice(end - n, end)) for end, n in zip(accumulate(lengths), lengths, strict=True)]
    order = sorted(range(first.ndim), key=lambda i: -abs(first.strides[i]))
    shape = [sum(lengths) if i == axis else first.shape[i] for i in order]
    y = empty(tuple(shape), first.dtype).transpose(np.argsort(order))
    for key, a in zip(keys, arrays, strict=True):
        if a.size:
            _by_parts(lambda x, out: np.copyto(out, x), y[key], a)
    return y, lambda dy: [dy[key] for key in keys]
