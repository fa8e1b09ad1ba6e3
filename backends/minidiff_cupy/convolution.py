"""conv2d and conv_transpose2d on channels-last images; every convolution is served, in float32 and half precision."""

from __future__ import annotations

from typing import Any

from minidiff.modes import prepared
from minidiff_cupy.memory import Array, channels_first, channels_last, served
from minidiff_cupy.products import Epilogue, Geometry, contiguous, correlate, filters_between, spread
from minidiff_cupy.sums import sum_columns


def conv2d(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any,
    shift: Any = None,
    residual: Any = None,
    *,
    stride: Any,
    padding: Any,
    groups: int,
    dilation: Any,
) -> Any:
    """See `minidiff.ops.conv2d`; what is added is added in the product's kernel."""
    if not served(x, weight, bias, shift, residual):
        return NotImplemented
    g = conv2d_geometry(x, weight, stride, padding, dilation, groups)
    image, skipped = channels_last(xp, x), None if residual is None else channels_last(xp, residual)
    epilogue = Epilogue(contiguous(xp, bias), contiguous(xp, shift), skipped)
    y = correlate(xp, image, ohwi(xp, weight), g, epilogue)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = channels_last(xp, dy)
        return (
            lambda: channels_first(spread(xp, d, _ihwo(xp, weight, groups), g)),
            lambda: channels_first(filters_between(xp, image, d, g)),
            lambda: _sum_pixels(xp, d, 1)[0],
            lambda: _sum_pixels(xp, d, d.shape[0]),
            lambda: dy,
        )

    return channels_first(y), vjp


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
    """See `minidiff.ops.conv_transpose2d`."""
    if not served(x, weight, bias):
        return NotImplemented
    kernel, s, p, d = weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation)
    sides = [
        (n - 1) * t - 2 * q + e * (k - 1) + more + 1
        for n, t, q, e, k, more in zip(x.shape[2:], s, p, d, kernel, _pair(output_padding), strict=True)
    ]
    g = Geometry((sides[0], sides[1]), x.shape[2:], kernel, s, p, d, groups)
    image = channels_last(xp, x)
    y = spread(xp, image, _ihwo(xp, weight, groups), g, Epilogue(contiguous(xp, bias)))

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = channels_last(xp, dy)
        return (
            lambda: channels_first(correlate(xp, d, ohwi(xp, weight), g)),
            lambda: channels_first(filters_between(xp, d, image, g)),
            lambda: _sum_pixels(xp, d, 1)[0],
        )

    return channels_first(y), vjp


def conv2d_geometry(
    x: Array, weight: Array, stride: Any, padding: Any, dilation: Any, groups: int
) -> Geometry:
    """Of a convolution of images (N, C, H, W) with filters (O, C / groups, KH, KW)."""
    kernel, s, p, d = weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation)
    sides = [
        (n + 2 * q - e * (k - 1) - 1) // t + 1
        for n, q, e, k, t in zip(x.shape[2:], p, d, kernel, s, strict=True)
    ]
    return Geometry(x.shape[2:], (sides[0], sides[1]), kernel, s, p, d, groups)


def ohwi(xp: Any, weight: Array) -> Array:
    """Filters (O, C / groups, KH, KW) -> (O, KH, KW, C / groups), contiguous, with which `correlate` multiplies."""
    return prepared(weight, "ohwi", lambda w: channels_last(xp, w))


def _ihwo(xp: Any, weight: Array, groups: int) -> Array:
    """Filters (O, C / groups, KH, KW) -> (C, KH, KW, O / groups), contiguous, with which `spread` multiplies."""
    o, c, kh, kw = weight.shape

    def exchange(w: Array) -> Array:
        grouped = w.reshape(groups, o // groups, c, kh, kw).transpose(0, 2, 3, 4, 1)
        return xp.ascontiguousarray(grouped).reshape(groups * c, kh, kw, o // groups)

    return prepared(weight, f"ihwo {groups}", exchange)


def _sum_pixels(xp: Any, image: Array, parts: int) -> Array:
    """(N, H, W, C) -> (parts, C): sums over equal parts of the batch."""
    n, h, w, c = image.shape
    return sum_columns(xp, image.reshape(parts, n // max(1, parts) * h * w, c), image.dtype)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
