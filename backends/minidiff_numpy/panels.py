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
from minidiff_numpy.layout import Array, empty_images, in_order, is_pixel_major
from minidiff_numpy.linear import shares
from minidiff_numpy.plan import Plan


def _padded(x: Array, plan: Plan) -> Array:
    """Images with their border of zeros, in memory as they are."""
    (top, left), (h, w) = plan.padding, plan.inputs
    if not top and not left:
        return x
    n, _, _, c = x.shape
    pixel_major = is_pixel_major(n, h, w)
    y = empty_images((n, h + 2 * top, w + 2 * left, c), x.dtype, pixel_major=pixel_major)
    y[:, :top], y[:, top + h :] = 0, 0
    y[:, :, :left], y[:, :, left + w :] = 0, 0
    y[:, top : top + h, left : left + w] = x
    return y


def _panel(padded: Array, plan: Plan, images: slice, rows: slice) -> Array:
    """The pixels of images under the filter, (N, rows, columns, KH * KW * C) in the order of the results.

    They are in a lane's buffer, or a view of the images if every pixel meets one tap.
    """
    if plan.is_product:
        return in_order(padded[images, rows], pixel_major=is_pixel_major(padded.shape[0], *plan.outputs))
    n, r, columns = images.stop - images.start, rows.stop - rows.start, plan.outputs[1]
    (kh, kw), (sh, sw), (dh, dw) = plan.kernel, plan.stride, plan.dilation
    batch, h, w, c = padded.shape
    item = padded.itemsize  # `strides` of an axis of length 1, such as a single channel, may be anything
    if is_pixel_major(batch, *plan.inputs):
        image, pixel, line = c * item, batch * c * item, w * batch * c * item
    else:
        image, pixel, line = h * w * c * item, c * item, w * c * item
    lengths: tuple[int, ...] = (kh, kw, c)
    strides: tuple[int, ...] = (line * dh, pixel * dw, item)
    if dw == 1 and pixel == c * item:  # a row of taps is contiguous: copy it in one go
        lengths, strides = (kh, kw * c), (line * dh, item)
    if is_pixel_major(batch, *plan.outputs):
        lengths, strides = (r, columns, n, *lengths), (line * sh, pixel * sw, image, *strides)
    else:
        lengths, strides = (n, r, columns, *lengths), (image, line * sh, pixel * sw, *strides)
    panel = lanes.scratch(0, lengths, padded.dtype)
    np.copyto(panel, as_strided(padded[images, rows.start * sh :], lengths, strides, writeable=False))
    return panel.reshape(*lengths[:3], kh * kw * c)


def correlate(
    x: Array, filters: Array, plan: Plan, offset: Array | None = None, residual: Array | None = None
) -> Array:
    """Images (N, *inputs, C), filters (KH, KW, C, O) -> images (N, *outputs, O), plus (N, O) and (N, *outputs, O).

    Lanes share the pixels or, where those are few, the filters.
    """
    n, c, o = x.shape[0], filters.shape[2], filters.shape[3]
    matrix = filters.reshape(-1, o)
    y = empty_images((n, *plan.outputs, o), x.dtype)
    pixel_major = is_pixel_major(n, *plan.outputs)
    padded = _padded(x, plan)

    by_pixels, cost = n * math.prod(plan.outputs) >= o, plan.multiplications(n, c, o)
    tiles = plan.tiles(n, c, x.itemsize, shares=lanes.sharing(cost) if by_pixels else 1)

    def part(item: tuple[tuple[slice, slice], slice]) -> None:
        tile, some = item
        out = in_order(y[tile], pixel_major=pixel_major)
        if out.flags.c_contiguous:  # one matrix
            out = out.reshape(-1, o)
        pixels = _panel(padded, plan, *tile)
        np.matmul(pixels.reshape(*out.shape[:-1], -1), matrix[:, some], out=out[..., some])
        part_of_y = y[tile][..., some]
        if offset is not None:
            part_of_y += offset[tile[0], None, None, some]
        if residual is not None:
            part_of_y += residual[tile][..., some]

    work = product(tiles, [slice(0, o)] if by_pixels else shares(o))
    lanes.each(part, work, multiplications=cost)
    return y


def spread(y: Array, filters: Array, plan: Plan) -> Array:
    """Images (N, *outputs, O) and filters (KH, KW, C, O) -> images (N, *inputs, C): the transpose of `correlate`."""
    back = plan.reversed()
    if back is not None:
        return correlate(y, np.ascontiguousarray(filters[::-1, ::-1].transpose(0, 1, 3, 2)), back)
    n, (kh, kw, c, o) = y.shape[0], filters.shape
    (h, w), (top, left), (sh, sw), (dh, dw) = plan.inputs, plan.padding, plan.stride, plan.dilation
    padded = empty_images(
        (n, h + 2 * top, w + 2 * left, c), y.dtype, pixel_major=is_pixel_major(n, *plan.inputs)
    )
    padded[...] = 0
    matrix = filters.reshape(-1, o).T
    width, pixel_major = plan.outputs[1], is_pixel_major(n, *plan.outputs)

    def part(tile: tuple[slice, slice]) -> None:
        images, rows = tile
        pixels = in_order(y[tile], pixel_major=pixel_major)
        panel = lanes.scratch(0, (*pixels.shape[:3], kh, kw, c), y.dtype)
        np.matmul(pixels.reshape(-1, o), matrix, out=panel.reshape(-1, kh * kw * c))
        taps = panel.transpose(3, 4, 2, 0, 1, 5) if pixel_major else panel.transpose(3, 4, 0, 1, 2, 5)
        lines = rows.stop - rows.start
        for i in range(kh):
            first = rows.start * sh + i * dh
            for j in range(kw):
                window = padded[
                    images,
                    first : first + (lines - 1) * sh + 1 : sh,
                    j * dw : j * dw + (width - 1) * sw + 1 : sw,
                ]
                window += taps[i, j]

    def image(tiles: list[tuple[slice, slice]]) -> None:
        for tile in tiles:  # rows of one image overlap: one after the other
            part(tile)

    cost = plan.multiplications(n, c, o)
    by_image: dict[int, list[tuple[slice, slice]]] = {}
    for tile in plan.tiles(n, c, y.itemsize, shares=lanes.sharing(cost), apart=True):
        by_image.setdefault(tile[0].start, []).append(tile)
    lanes.each(image, by_image.values(), multiplications=cost)
    if not top and not left:
        return padded
    x = empty_images((n, h, w, c), y.dtype)
    x[...] = padded[:, top : top + h, left : left + w]
    return x


def filters_between(x: Array, y: Array, plan: Plan) -> Array:
    """Images (N, *inputs, C) and (N, *outputs, O) -> the filters (KH, KW, C, O) that join them."""
    n, c, o = x.shape[0], x.shape[3], y.shape[3]
    cost = plan.multiplications(n, c, o)
    tiles = plan.tiles(n, c, x.itemsize, shares=lanes.sharing(cost))
    padded, pixel_major = _padded(x, plan), is_pixel_major(n, *plan.outputs)
    shares = min(lanes.sharing(cost), len(tiles))
    totals = np.zeros((shares, math.prod(plan.kernel) * c, o), x.dtype)

    def add_up(i: int) -> None:  # always the same tiles in the same order, so that sums have the same bits
        for tile in tiles[i::shares]:
            pixels = _panel(padded, plan, *tile)
            results = in_order(y[tile], pixel_major=pixel_major).reshape(-1, o)
            sums = lanes.scratch(1, totals[i].shape, x.dtype)
            totals[i] += np.matmul(pixels.reshape(len(results), -1).T, results, out=sums)

    lanes.each(add_up, range(shares), multiplications=cost)
    total: Array = totals.sum(axis=0)
    return total.reshape(*plan.kernel, c, o)
