"""Convolution of images of so few pixels that each pixel of the result sees every pixel of the image.

On 2x2 pixels, a filter of 3x3 finds four pixels and five zeros of the border, wherever it lies. Here no zero is
multiplied: a pixel of the result is the sum of as many products as there are pixels, of matrices (N, C) and (C, O).
As in `minidiff.ops.convolution`, three products carry convolution, its transpose, and all their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array, empty_images, in_order, is_pixel_major
from minidiff_numpy.memory import empty
from minidiff_numpy.plan import Plan


def serves(plan: Plan, images: int) -> bool:
    """Whether each pixel of the result sees every pixel of the image, in a batch that is HWNC before and after."""
    seen = all(h <= k - p for h, k, p in zip(plan.inputs, plan.kernel, plan.padding, strict=True))
    apart = plan.stride != (1, 1) or plan.dilation != (1, 1)
    return (
        seen and not apart and is_pixel_major(images, *plan.inputs) and is_pixel_major(images, *plan.outputs)
    )


def _between(filters: Array, plan: Plan) -> Array:
    """Filters (KH, KW, C, O) -> (*inputs, *outputs, C, O), the tap between two pixels: a view."""
    down, right, *matrix = filters.strides
    strides = (down, right, -down, -right, *matrix)
    shape = (*plan.inputs, *plan.outputs, *filters.shape[2:])
    return as_strided(filters[plan.padding], shape, strides, writeable=False)


def _places(sides: tuple[int, int]) -> Iterator[tuple[int, int]]:
    return product(range(sides[0]), range(sides[1]))


def _multiplications(plan: Plan, images: int, filters: Array) -> int:
    return math.prod((images, *plan.inputs, *plan.outputs, *filters.shape[2:]))


def correlate(
    x: Array, filters: Array, plan: Plan, offset: Array | None = None, residual: Array | None = None
) -> Array:
    """Images (N, *inputs, C), filters (KH, KW, C, O) -> images (N, *outputs, O), plus (N, O) and (N, *outputs, O)."""
    n, o = x.shape[0], filters.shape[3]
    y = empty_images((n, *plan.outputs, o), x.dtype)
    between, pixels = _between(filters, plan), in_order(x, pixel_major=True)

    def part(place: tuple[int, int]) -> None:
        row, column = place
        products = lanes.scratch(0, (*plan.inputs, n, o), x.dtype)
        out = y[:, row, column]
        np.matmul(pixels, between[:, :, row, column], out=products).sum(axis=(0, 1), out=out)
        if offset is not None:
            out += offset
        if residual is not None:
            out += residual[:, row, column]

    lanes.each(part, _places(plan.outputs), multiplications=_multiplications(plan, n, filters))
    return y


def spread(y: Array, filters: Array, plan: Plan) -> Array:
    """Images (N, *outputs, O) and filters (KH, KW, C, O) -> images (N, *inputs, C): the transpose of `correlate`."""
    n, c = y.shape[0], filters.shape[2]
    x = empty_images((n, *plan.inputs, c), y.dtype)
    between, pixels = _between(filters, plan).swapaxes(-1, -2), in_order(y, pixel_major=True)

    def part(place: tuple[int, int]) -> None:
        products = lanes.scratch(0, (*plan.outputs, n, c), y.dtype)
        np.matmul(pixels, between[place], out=products).sum(
            axis=(0, 1), out=in_order(x, pixel_major=True)[place]
        )

    lanes.each(part, _places(plan.inputs), multiplications=_multiplications(plan, n, filters))
    return x


def filters_between(x: Array, y: Array, plan: Plan) -> Array:
    """Images (N, *inputs, C) and (N, *outputs, O) -> the filters (KH, KW, C, O) that join them."""
    filters = empty((*plan.kernel, x.shape[3], y.shape[3]), x.dtype)
    before, after = in_order(x, pixel_major=True), in_order(y, pixel_major=True)

    def overlap(axis: int, tap: int) -> tuple[slice, slice]:
        """Pixels of the image, and those of the result that see them by this tap."""
        shift, size = tap - plan.padding[axis], plan.inputs[axis]
        first, last = max(0, shift), min(size, plan.outputs[axis] + shift)
        return slice(first, max(first, last)), slice(first - shift, max(first, last) - shift)

    def part(tap: tuple[int, int]) -> None:
        (rows, rows_after), (columns, columns_after) = (overlap(axis, tap[axis]) for axis in (0, 1))
        pixels = before[rows, columns].reshape(-1, x.shape[3])
        np.matmul(pixels.T, after[rows_after, columns_after].reshape(-1, y.shape[3]), out=filters[tap])

    work = _multiplications(plan, x.shape[0], filters)
    lanes.each(part, _places(plan.kernel), multiplications=work)
    return filters
