"""Convolution as matrix products over small panels.

A panel holds the pixels under the filter for a few images or rows: (pixels, KH * KW * C).
It is about a megabyte, so it stays in the cache while it is written and multiplied; the
panel of the whole batch never exists. As in `minidiff.ops.convolution`, three products
carry convolution, its transpose, and all their gradients.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array
from minidiff_numpy.linear import shares
from minidiff_numpy.memory import empty
from minidiff_numpy.plan import Plan


def _padded(x: Array, plan: Plan) -> Array:
    (top, left), (h, w) = plan.padding, plan.inputs
    if not top and not left:
        return x
    n, _, _, c = x.shape
    y = empty((n, h + 2 * top, w + 2 * left, c), x.dtype)
    y[:, :top], y[:, top + h :] = 0, 0
    y[:, :, :left], y[:, :, left + w :] = 0, 0
    y[:, top : top + h, left : left + w] = x
    return y


def _panel(padded: Array, plan: Plan, images: slice, rows: slice) -> Array:
    """The pixels of contiguous images under the filter, (images * rows * columns, KH * KW * C), in a lane's buffer."""
    n, r = images.stop - images.start, rows.stop - rows.start
    (kh, kw), (sh, sw), (dh, dw) = plan.kernel, plan.stride, plan.dilation
    _, h, w, c = padded.shape
    item = padded.itemsize  # `strides` of an axis of length 1, such as a single channel, may be anything
    pixel, line, image = c * item, w * c * item, h * w * c * item
    shape: tuple[int, ...] = (n, r, plan.outputs[1], kh, kw, c)
    strides: tuple[int, ...] = (image, line * sh, pixel * sw, line * dh, pixel * dw, item)
    if dw == 1:  # a row of taps is contiguous: copy it in one go
        shape, strides = (*shape[:4], kw * c), (*strides[:4], item)
    panel = lanes.scratch(0, shape, padded.dtype)
    np.copyto(panel, as_strided(padded[images, rows.start * sh :], shape, strides, writeable=False))
    return panel.reshape(-1, kh * kw * c)


def correlate(
    x: Array, filters: Array, plan: Plan, offset: Array | None = None, residual: Array | None = None
) -> Array:
    """Images (N, *inputs, C), filters (KH, KW, C, O) -> images (N, *outputs, O), plus (N, O) and (N, *outputs, O).

    Lanes share the pixels or, where those are few, the filters.
    """
    n, c, o = x.shape[0], filters.shape[2], filters.shape[3]
    matrix = filters.reshape(-1, o)
    y = empty((n, *plan.outputs, o), x.dtype)
    padded = _padded(x, plan)

    by_pixels = n * math.prod(plan.outputs) >= o
    tiles = plan.tiles(n, c, x.itemsize, shares=lanes.count() if by_pixels else 1)

    def part(item: tuple[tuple[slice, slice], slice]) -> None:
        tile, some = item
        pixels = x[tile].reshape(-1, c) if plan.is_product else _panel(padded, plan, *tile)
        part_of_y = y[tile][..., some]
        np.matmul(pixels, matrix[:, some], out=y[tile].reshape(-1, o)[:, some])
        if offset is not None:
            part_of_y += offset[tile[0], None, None, some]
        if residual is not None:
            part_of_y += residual[tile][..., some]

    work = product(tiles, [slice(0, o)] if by_pixels else shares(o))
    lanes.each(part, work, multiplications=plan.multiplications(n, c, o))
    return y


def spread(y: Array, filters: Array, plan: Plan) -> Array:
    """Images (N, *outputs, O) and filters (KH, KW, C, O) -> images (N, *inputs, C): the transpose of `correlate`."""
    back = plan.reversed()
    if back is not None:
        return correlate(y, np.ascontiguousarray(filters[::-1, ::-1].transpose(0, 1, 3, 2)), back)
    n, (kh, kw, c, o) = y.shape[0], filters.shape
    (h, w), (top, left), (sh, sw), (dh, dw) = plan.inputs, plan.padding, plan.stride, plan.dilation
    padded = empty((n, h + 2 * top, w + 2 * left, c), y.dtype)
    padded[...] = 0
    matrix = filters.reshape(-1, o).T
    width = plan.outputs[1]

    def part(tile: tuple[slice, slice]) -> None:
        images, rows = tile
        count, lines = images.stop - images.start, rows.stop - rows.start
        panel = lanes.scratch(0, (count * lines * width, kh * kw * c), y.dtype)
        np.matmul(y[tile].reshape(-1, o), matrix, out=panel)
        taps = panel.reshape(count, lines, width, kh, kw, c)
        for i in range(kh):
            first = rows.start * sh + i * dh
            for j in range(kw):
                window = padded[
                    images,
                    first : first + (lines - 1) * sh + 1 : sh,
                    j * dw : j * dw + (width - 1) * sw + 1 : sw,
                ]
                window += taps[:, :, :, i, j]

    def image(tiles: list[tuple[slice, slice]]) -> None:
        for tile in tiles:  # rows of one image overlap: one after the other
            part(tile)

    by_image: dict[int, list[tuple[slice, slice]]] = {}
    for tile in plan.tiles(n, c, y.itemsize, shares=lanes.count()):
        by_image.setdefault(tile[0].start, []).append(tile)
    lanes.each(image, by_image.values(), multiplications=plan.multiplications(n, c, o))
    return np.ascontiguousarray(padded[:, top : top + h, left : left + w])


def filters_between(x: Array, y: Array, plan: Plan) -> Array:
    """Images (N, *inputs, C) and (N, *outputs, O) -> the filters (KH, KW, C, O) that join them."""
    n, c, o = x.shape[0], x.shape[3], y.shape[3]
    tiles = plan.tiles(n, c, x.itemsize, shares=lanes.count())
    padded = _padded(x, plan)
    shares = min(lanes.count(), len(tiles))
    totals = np.zeros((shares, plan.kernel[0] * plan.kernel[1] * c, o), x.dtype)

    def add_up(i: int) -> None:  # always the same tiles in the same order, so that sums have the same bits
        for tile in tiles[i::shares]:
            pixels = x[tile].reshape(-1, c) if plan.is_product else _panel(padded, plan, *tile)
            totals[i] += np.matmul(
                pixels.T, y[tile].reshape(-1, o), out=lanes.scratch(1, totals[i].shape, x.dtype)
            )

    lanes.each(add_up, range(shares), multiplications=plan.multiplications(n, c, o))
    total: Array = totals.sum(axis=0)
    return total.reshape(*plan.kernel, c, o)
