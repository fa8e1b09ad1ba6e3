"""conv2d and conv_transpose2d on channels-last images, as matrix products over small panels.

A panel holds the pixels under the filter for a few images or rows: (pixels, KH * KW * C).
It is about a megabyte, so it stays in the cache while it is written and multiplied; the
panel of the whole batch never exists. As in `minidiff.ops.convolution`, three products
carry both operations and all their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array, as_nchw, channels_last, served
from minidiff_numpy.linear import sum_rows

_PANEL_BYTES = 1 << 20  # in each lane
_THUMBNAILS = 1 << 13  # pixels in a batch
_MANY = 100_000_000  # multiplications


@dataclass(frozen=True)
class Plan:
    """Sides of the image that is correlated (`inputs`) and of the result (`outputs`), and where taps fall."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def is_product(self) -> bool:
        """Whether every pixel meets one tap, in its place: then one matrix product is enough."""
        return self.kernel == (1, 1) and self.padding == (0, 0) and self.inputs == self.outputs

    def reversed(self) -> Plan | None:
        """The plan by which mirrored filters correlate results back to images, if there is one."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        top, left = (r - p for r, p in zip(reach, self.padding, strict=True))
        sides = tuple(o + r - 2 * p for o, r, p in zip(self.outputs, reach, self.padding, strict=True))
        if self.stride != (1, 1) or min(top, left) < 0 or sides != self.inputs:
            return None
        return Plan(self.outputs, self.inputs, self.kernel, (1, 1), (top, left), self.dilation)

    def share(
        self, function: Callable[[Any], object], items: Any, images: int, channels: int, filters: int
    ) -> None:
        """Call `function(item)` for every item, on lanes if there is enough to do for them.

        For a batch of thumbnails BLAS's own threads, which spin rather than sleep while they wait for the
        next product, are faster than lanes; a batch of larger images would find them in its way.
        """
        pixels = images * math.prod(self.outputs)
        multiplications = pixels * math.prod(self.kernel) * channels * filters
        if pixels <= _THUMBNAILS and multiplications < _MANY:
            for item in items:
                function(item)
        else:
            lanes.each(function, items, multiplications=multiplications)

    def tiles(self, images: int, channels: int, itemsize: int) -> list[tuple[slice, slice]]:
        """Parts of the batch whose panel is small, enough for every lane: some images, or some rows of one image."""
        row = max(1, self.outputs[1] * self.kernel[0] * self.kernel[1] * channels * itemsize)
        rows, height = max(1, _PANEL_BYTES // row), self.outputs[0]
        if images == 1:
            rows = min(rows, -(-height // lanes.count()))
        if rows < height:
            return [
                (slice(n, n + 1), slice(r, min(r + rows, height)))
                for n in range(images)
                for r in range(0, height, rows)
            ]
        tiles = max(1, -(-images // max(1, rows // height)))
        step = max(1, -(-images // (lanes.count() * -(-tiles // lanes.count()))))  # as many for each lane
        return [(slice(n, min(n + step, images)), slice(0, height)) for n in range(0, images, step)]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _padded(x: Array, plan: Plan) -> Array:
    (top, left), (h, w) = plan.padding, plan.inputs
    if not top and not left:
        return x
    n, _, _, c = x.shape
    y = np.empty((n, h + 2 * top, w + 2 * left, c), x.dtype)
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
    panel = lanes.scratch("panel", shape, padded.dtype)
    np.copyto(panel, as_strided(padded[images, rows.start * sh :], shape, strides, writeable=False))
    return panel.reshape(-1, kh * kw * c)


def correlate(x: Array, filters: Array, plan: Plan, bias: Array | None = None) -> Array:
    """Images (N, *inputs, C) and filters (KH, KW, C, O), and a bias (O,) -> images (N, *outputs, O)."""
    n, c, o = x.shape[0], filters.shape[2], filters.shape[3]
    matrix = filters.reshape(-1, o)
    y = np.empty((n, *plan.outputs, o), x.dtype)
    padded = _padded(x, plan)

    def part(tile: tuple[slice, slice]) -> None:
        pixels = x[tile].reshape(-1, c) if plan.is_product else _panel(padded, plan, *tile)
        out = y[tile].reshape(-1, o)
        np.matmul(pixels, matrix, out=out)
        if bias is not None:
            out += bias

    plan.share(part, plan.tiles(n, c, x.itemsize), n, c, o)
    return y


def spread(y: Array, filters: Array, plan: Plan) -> Array:
    """Images (N, *outputs, O) and filters (KH, KW, C, O) -> images (N, *inputs, C): the transpose of `correlate`."""
    back = plan.reversed()
    if back is not None:
        return correlate(y, np.ascontiguousarray(filters[::-1, ::-1].transpose(0, 1, 3, 2)), back)
    n, (kh, kw, c, o) = y.shape[0], filters.shape
    (h, w), (top, left), (sh, sw), (dh, dw) = plan.inputs, plan.padding, plan.stride, plan.dilation
    padded = np.zeros((n, h + 2 * top, w + 2 * left, c), y.dtype)
    matrix = filters.reshape(-1, o).T
    width = plan.outputs[1]

    def part(tile: tuple[slice, slice]) -> None:
        images, rows = tile
        count, lines = images.stop - images.start, rows.stop - rows.start
        panel = lanes.scratch("panel", (count * lines * width, kh * kw * c), y.dtype)
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
    for tile in plan.tiles(n, c, y.itemsize):
        by_image.setdefault(tile[0].start, []).append(tile)
    plan.share(image, by_image.values(), n, c, o)
    return np.ascontiguousarray(padded[:, top : top + h, left : left + w])


def filters_between(x: Array, y: Array, plan: Plan) -> Array:
    """Images (N, *inputs, C) and (N, *outputs, O) -> the filters (KH, KW, C, O) that join them."""
    n, c, o = x.shape[0], x.shape[3], y.shape[3]
    tiles = plan.tiles(n, c, x.itemsize)
    padded = _padded(x, plan)
    shares = min(lanes.count(), len(tiles))
    totals = np.zeros((shares, plan.kernel[0] * plan.kernel[1] * c, o), x.dtype)

    def add_up(i: int) -> None:  # always the same tiles in the same order, so that sums have the same bits
        for tile in tiles[i::shares]:
            pixels = x[tile].reshape(-1, c) if plan.is_product else _panel(padded, plan, *tile)
            totals[i] += np.matmul(
                pixels.T, y[tile].reshape(-1, o), out=lanes.scratch("sum", totals[i].shape, x.dtype)
            )

    plan.share(add_up, range(shares), n, c, o)
    total: Array = totals.sum(axis=0)
    return total.reshape(*plan.kernel, c, o)


def _hwio(weight: Array) -> Array:
    """Filters (O, C, KH, KW) -> (KH, KW, C, O), contiguous."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))


def _oihw(filters: Array) -> Array:
    """Filters (KH, KW, C, O) -> (O, C, KH, KW), contiguous."""
    return np.ascontiguousarray(filters.transpose(3, 2, 0, 1))


def conv2d(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any,
    *,
    stride: Any,
    padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    """See `minidiff.ops.conv2d`; grouped and half-precision convolutions are left to the generic rule."""
    if groups != 1 or not served(x, weight, bias):
        return NotImplemented
    kernel, s, p, d = weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation)
    sides = [
        (n + 2 * q - e * (k - 1) - 1) // t + 1
        for n, q, e, k, t in zip(x.shape[2:], p, d, kernel, s, strict=True)
    ]
    plan = Plan(x.shape[2:], (sides[0], sides[1]), kernel, s, p, d)
    image = channels_last(x)
    y = correlate(image, _hwio(weight), plan, bias)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d_image = channels_last(dy)
        return (
            lambda: as_nchw(spread(d_image, _hwio(weight), plan)),
            lambda: _oihw(filters_between(image, d_image, plan)),
            lambda: sum_rows(d_image.reshape(-1, d_image.shape[3])),
        )

    return as_nchw(y), vjp


def conv_transpose2d(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any,
    *,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    """See `minidiff.ops.conv_transpose2d`; grouped and half-precision ones are left to the generic rule."""
    if groups != 1 or not served(x, weight, bias):
        return NotImplemented
    kernel, s, p, d = weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation)
    extra = _pair(output_padding)
    sides = [
        (n - 1) * t - 2 * q + e * (k - 1) + more + 1
        for n, t, q, e, k, more in zip(x.shape[2:], s, p, d, kernel, extra, strict=True)
    ]
    plan = Plan((sides[0], sides[1]), x.shape[2:], kernel, s, p, d)
    image = channels_last(x)
    y = spread(image, _hwio(weight), plan)
    if bias is not None:
        y += bias

    def vjp(dy: Array) -> tuple[Any, ...]:
        d_image = channels_last(dy)
        return (
            lambda: as_nchw(correlate(d_image, _hwio(weight), plan)),
            lambda: _oihw(filters_between(d_image, image, plan)),
            lambda: sum_rows(d_image.reshape(-1, d_image.shape[3])),
        )

    return as_nchw(y), vjp
