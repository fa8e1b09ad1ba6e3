"""conv2d and conv_transpose2d: Winograd's algorithm where it serves, small panels elsewhere, all pairs of few pixels.

As in `minidiff.ops.convolution`, three products carry both operations and all their
gradients: `_correlate`, `_spread`, its transpose, and `_filters_between`.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from minidiff.modes import is_exact, prepared
from minidiff_numpy import all_pairs, lanes, panels, winograd
from minidiff_numpy.layout import Array, as_nchw, channels_last, served
from minidiff_numpy.linear import sum_pixels
from minidiff_numpy.memory import empty
from minidiff_numpy.plan import Plan

_COST = 50  # multiplications that take as long as moving one element


def _is_winograds(plan: Plan, images: int, channels: int, filters: int, dtype: Any, *, least: int) -> bool:
    """Whether Winograd's algorithm can do it and is faster: with `least` tiles at least, of not too few channels."""
    tiles = images * math.prod(-(-side // 4) for side in plan.outputs)
    return (
        (plan.kernel, plan.stride, plan.dilation) == ((3, 3), (1, 1), (1, 1))
        and max(plan.padding) <= 2
        and dtype == np.float32
        and min(channels, filters) >= 16
        and tiles >= least
        and not is_exact()
    )


def _correlate(
    x: Array, weight: Array, plan: Plan, offset: Array | None = None, residual: Array | None = None
) -> Array:
    """Images (N, *inputs, C), filters (O, C, KH, KW) -> images (N, *outputs, O), plus (N, O) and (N, *outputs, O)."""
    o, c = weight.shape[:2]
    if all_pairs.serves(plan, x.shape[0]):
        return all_pairs.correlate(x, prepared(weight, "hwio", _hwio), plan, offset, residual)
    if _is_winograds(plan, x.shape[0], c, o, x.dtype, least=16):
        transformed = prepared(weight, "winograd", lambda w: winograd.transform(_hwio(w)))
        return winograd.correlate(x, transformed, plan.padding, offset, residual)
    return panels.correlate(x, prepared(weight, "hwio", _hwio), plan, offset, residual)


def _spread(y: Array, weight: Array, plan: Plan) -> Array:
    """Images (N, *outputs, O) and filters (O, C, KH, KW) -> (N, *inputs, C): the transpose of `_correlate`."""
    if all_pairs.serves(plan, y.shape[0]):
        return all_pairs.spread(y, _hwio(weight), plan)
    back = plan.reversed()
    if back is None:
        return panels.spread(y, _hwio(weight), plan)
    o, c = weight.shape[:2]
    mirrored = _in_order(weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1))
    if _is_winograds(back, y.shape[0], o, c, y.dtype, least=16):
        return winograd.correlate(y, winograd.transform(mirrored), back.padding)
    return panels.correlate(y, mirrored, back)


def _filters_between(x: Array, y: Array, plan: Plan) -> Array:
    """Images (N, *inputs, C) and (N, *outputs, O) -> the filters (O, C, KH, KW) that join them.

    In memory they are (KH, KW, C, O), which is what the products want of them in the next step.
    """
    if all_pairs.serves(plan, x.shape[0]):
        filters = all_pairs.filters_between(x, y, plan)
    elif _is_winograds(plan, x.shape[0], x.shape[3], y.shape[3], x.dtype, least=32):
        filters = winograd.filters_between(x, y, plan.padding)
    else:
        filters = panels.filters_between(x, y, plan)
    return filters.transpose(3, 2, 0, 1)


def _hwio(weight: Array) -> Array:
    """Filters (O, C, KH, KW) -> (KH, KW, C, O), contiguous; a copy only if the memory is not in that order already."""
    return _in_order(weight.transpose(2, 3, 1, 0))


def _in_order(filters: Array) -> Array:
    """Filters with contiguous memory. A copy, if there must be one, goes by the cache lines that it writes."""
    if filters.flags.c_contiguous:
        return filters
    copy = empty(filters.shape, filters.dtype)
    line = 64 // filters.itemsize

    def part(start: int) -> None:
        some = slice(start, start + line)
        copy[..., some] = filters[..., some]

    lanes.each(part, range(0, filters.shape[-1], line), multiplications=_COST * filters.size)
    return copy


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


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
    """See `minidiff.ops.conv2d`; groups, half precision and images without pixels are left to the generic rule."""
    if groups != 1 or 0 in x.shape[2:] or not served(x, weight, bias, shift, residual):
        return NotImplemented
    kernel, s, p, d = weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation)
    sides = [
        (n + 2 * q - e * (k - 1) - 1) // t + 1
        for n, q, e, k, t in zip(x.shape[2:], p, d, kernel, s, strict=True)
    ]
    plan = Plan(x.shape[2:], (sides[0], sides[1]), kernel, s, p, d)
    image = channels_last(x)
    offset = _offset(bias, shift, (x.shape[0], weight.shape[0]))
    y = _correlate(image, weight, plan, offset, None if residual is None else channels_last(residual))

    def vjp(dy: Array) -> tuple[Any, ...]:
        d_image = channels_last(dy)
        sums = cache(lambda: sum_pixels(d_image))
        return (
            lambda: as_nchw(_spread(d_image, weight, plan)),
            lambda: _filters_between(image, d_image, plan),
            lambda: sums().sum(axis=0),
            sums,
            lambda: dy,
        )

    return as_nchw(y), vjp


def _offset(bias: Array | None, shift: Array | None, shape: tuple[int, int]) -> Array | None:
    """What is added to all pixels of an image, (N, O): a bias (O,) and a shift (N, O)."""
    if shift is None:
        return None if bias is None else np.broadcast_to(bias, shape)
    return shift if bias is None else shift + bias


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
    """See `minidiff.ops.conv_transpose2d`; what `conv2d` leaves to the generic rule is left to it here, too."""
    if groups != 1 or 0 in x.shape[2:] or not served(x, weight, bias):
        return NotImplemented
    kernel, s, p, d = weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation)
    extra = _pair(output_padding)
    sides = [
        (n - 1) * t - 2 * q + e * (k - 1) + more + 1
        for n, t, q, e, k, more in zip(x.shape[2:], s, p, d, kernel, extra, strict=True)
    ]
    plan = Plan((sides[0], sides[1]), x.shape[2:], kernel, s, p, d)
    image = channels_last(x)
    y = _spread(image, weight, plan)
    if bias is not None:
        y += bias

    def vjp(dy: Array) -> tuple[Any, ...]:
        d_image = channels_last(dy)
        return (
            lambda: as_nchw(_correlate(d_image, weight, plan)),
            lambda: _filters_between(d_image, image, plan),
            lambda: sum_pixels(d_image).sum(axis=0),
        )

    return as_nchw(y), vjp
