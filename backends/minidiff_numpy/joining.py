"""add and concat of large arrays on the lanes; the result lies in memory as the first operand does."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from minidiff_numpy.blocks import by_parts
from minidiff_numpy.layout import Array, channels_last, served
from minidiff_numpy.linear import sum_pixels
from minidiff_numpy.memory import empty, empty_like

_LARGE = 1 << 17  # elements: with fewer, the rule is as fast
_COST = 50  # multiplications that take as long as one element


def add(xp: Any, x1: Any, x2: Any) -> Any:
    """See `minidiff.ops.add`; arrays of one shape, and images (N, C, H, W) to which (N, C, 1, 1) is added."""
    arrays = isinstance(x1, np.ndarray) and isinstance(x2, np.ndarray) and served(x1, x2)
    if not arrays or x1.size < _LARGE or not (x1.shape == x2.shape or _is_shift(x2, x1)):
        return NotImplemented
    y = empty_like(x1)
    by_parts(lambda a, b, out: np.add(a, b, out=out), y, x1, x2, cost=_COST)
    if x1.shape == x2.shape:
        return y, lambda dy: (dy, dy)
    return y, lambda dy: (dy, lambda: sum_pixels(channels_last(dy))[:, :, None, None])


def _is_shift(x: Array, images: Array) -> bool:
    return images.ndim == 4 and x.shape == (*images.shape[:2], 1, 1)


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
            by_parts(lambda x, out: np.copyto(out, x), y[key], a, cost=_COST)
    return y, lambda dy: [dy[key] for key in keys]
