"""linear, its rows shared out to the lanes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array, in_order, is_pixel_major, served
from minidiff_numpy.memory import empty


def matrix_product(a: Array, b: Array) -> Array:
    """A @ b for matrices, whatever their memory order."""
    y = empty((a.shape[0], b.shape[1]), a.dtype)
    by_rows = a.shape[0] >= b.shape[1]

    def part(lines: slice) -> None:
        if by_rows:
            np.matmul(a[lines], b, out=y[lines])
        else:
            np.matmul(a, b[:, lines], out=y[:, lines])

    lanes.each(part, shares(max(y.shape)), multiplications=y.size * a.shape[1])
    return y


def sum_rows(x: Array) -> Array:
    """The sum of the rows of a matrix."""
    total: Array = matrix_product(np.ones((1, x.shape[0]), x.dtype), x)[0]
    return total


def sum_pixels(image: Array) -> Array:
    """(N, H, W, C) -> (N, C)."""
    n, h, w, c = image.shape
    if is_pixel_major(n, h, w):
        return sum_rows(in_order(image, pixel_major=True).reshape(h * w, n * c)).reshape(n, c)
    pixels, ones = image.reshape(n, h * w, c), np.ones((1, h * w), image.dtype)
    sums = empty((n, 1, c), image.dtype)

    def part(images: slice) -> None:
        np.matmul(ones, pixels[images], out=sums[images])

    lanes.each(part, shares(n), multiplications=image.size)
    return sums[:, 0]


def shares(size: int) -> Iterator[slice]:
    """`range(size)` in a part for each lane."""
    count = max(1, min(lanes.count(), size))
    return (slice(size * i // count, size * (i + 1) // count) for i in range(count))


def linear(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    """See `minidiff.ops.linear`; half precision is left to the generic rule."""
    if not served(x, weight, bias):
        return NotImplemented
    out, width = weight.shape
    rows = x.reshape(-1, width)
    y = matrix_product(rows, weight.T)
    if bias is not None:
        y += bias

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = dy.reshape(-1, out)
        return (
            lambda: matrix_product(d, weight).reshape(x.shape),
            lambda: matrix_product(d.T, rows),
            lambda: sum_rows(d),
        )

    return y.reshape(*x.shape[:-1], out), vjp
