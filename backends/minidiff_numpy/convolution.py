"""conv2d and conv_transpose2d on channels-last images, as matrix products over small panels.

A panel holds the pixels under the filter for a few images or rows: (pixels, KH * KW * C).
It is about a megabyte, so it stays in the cache while it is written and multiplied; the
panel of the whole batch never exists. As in `minidiff.ops.convolution`, three products
carry both operations and all their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidiff_numpy.layout import Array, as_nchw, channels_last, served

_PANEL_BYTES = 1 << 20


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

    def tiles(self, images: int, channels: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
        """Parts of the batch whose panel is small: several images, or several rows of one image."""
        row = max(1, self.outputs[1] * self.kernel[0] * self.kernel[1] * channels * itemsize)
        rows = max(1, _PANEL_BYTES // row)
        height = self.outputs[0]
        if rows >= height:
            step = rows // height
            yield from ((slice(n, min(n + step, images)), slice(0, height)) for n in range(0, images, step))
        else:
            for n in range(images):
                yield from (
                    (slice(n, n + 1), slice(r, min(r + rows, height))) for r in range(0, height, rows)
                )


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


def _panel(padded: Array, plan: Plan, images: slice, rows: slice, buffer: Array) -> Array:
    """The pixels of contiguous images under the filter, (images * rows * columns, KH * KW * C), in `buffer`."""
    n, r = images.stop - images.start, rows.stop - rows.start
    (kh, kw), (sh, sw), (dh, dw) = plan.kernel, plan.stride, plan.dilation
    _, h, w, c = padded.shape
    item = padded.itemsize  # `strides` of an axis of length 1, such as a single channel, may be anything
    pixel, line, image = c * item, w * c * item, h * w * c * item
    shape: tuple[int, ...] = (n, r, plan.outputs[1], kh, kw, c)
    strides: tuple[int, ...] = (image, line * sh, pixel * sw, line * dh, pixel * dw, item)
    if dw == 1:  # a row of taps is contiguous: copy it in one go
        shape, strides = (*shape[:4], kw * c), (*strides[:4], item)
    panel = buffer[: n * r * plan.outputs[1] * kh * kw * c].reshape(shape)
    np.copyto(panel, as_strided(padded[images, rows.start * sh :], shape, strides, writeable=False))
    return panel.reshape(-1, kh * kw * c)


def _buffer(plan: Plan, images: int, channels: int, dtype: Any) -> Array:
    taps = plan.outputs[1] * plan.kernel[0] * plan.kernel[1] * channels
    tiles = plan.tiles(images, channels, dtype.itemsize)
    pixels = max(((n.stop - n.start) * (r.stop - r.start) for n, r in tiles), default=0)
    return np.empty(pixels * taps, dtype)


def correlate(x: Array, filters: Array, plan: Plan) -> Array:
    """Images (N, *inputs, C) and filters (KH, KW, C, O) -> images (N, *outputs, O)."""
    n, c, o = x.shape[0], filters.shape[2], filters.shape[3]
    matrix = filters.reshape(-1, o)
    y = np.empty((n, *plan.outputs, o), x.dtype)
    if plan.is_product:
        np.matmul(x.reshape(-1, c), matrix, out=y.reshape(-1, o))
        return y
    padded, buffer = _padded(x, plan), _buffer(plan, n, c, x.dtype)
    for images, rows in plan.tiles(n, c, x.itemsize):
        np.matmul(_panel(padded, plan, images, rows, buffer), matrix, out=y[images, rows].reshape(-1, o))
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
    buffer = _buffer(plan, n, c, y.dtype)
    width = plan.outputs[1]
    for images, rows in plan.tiles(n, c, y.itemsize):
        count, lines = images.stop - images.start, rows.stop - rows.start
        panel = buffer[: count * lines * width * kh * kw * c].reshape(-1, kh * kw * c)
        np.matmul(y[images, rows].reshape(-1, o), matrix, out=panel)
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
    return np.ascontiguousarray(padded[:, top : top + h, left : left + w])


def filters_between(x: Array, y: Array, plan: Plan) -> Array:
    """Images (N, *inputs, C) and (N, *outputs, O) -> the filters (KH, KW, C, O) that join them."""
    n, c, o = x.shape[0], x.shape[3], y.shape[3]
    if plan.is_product:
        return (x.reshape(-1, c).T @ y.reshape(-1, o)).reshape(1, 1, c, o)
    total = np.zeros((plan.kernel[0] * plan.kernel[1] * c, o), x.dtype)
    padded, buffer = _padded(x, plan), _buffer(plan, n, c, x.dtype)
    for images, rows in plan.tiles(n, c, x.itemsize):
        total += _panel(padded, plan, images, rows, buffer).T @ y[images, rows].reshape(-1, o)
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
    y = correlate(image, _hwio(weight), plan)
    if bias is not None:
        y += bias

    def vjp(dy: Array) -> tuple[Any, ...]:
        d_image = channels_last(dy)
        return (
            lambda: as_nchw(spread(d_image, _hwio(weight), plan)),
            lambda: _oihw(filters_between(image, d_image, plan)),
            lambda: _sum_pixels(d_image),
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
            lambda: _sum_pixels(d_image),
        )

    return as_nchw(y), vjp


def _sum_pixels(image: Array) -> Array:
    """(N, H, W, C) -> (C,)."""
    rows = image.reshape(-1, image.shape[3])
    return np.ones(rows.shape[0], rows.dtype) @ rows
