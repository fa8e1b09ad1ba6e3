"""Operations that reduce, and the cumulative sum. float16 and bfloat16 are summed in float32."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.elementwise import sqrt
from minidiff.ops.support import find_dtype, narrow, normal_axes, normal_axis, widen

Axis = int | tuple[int, ...] | None


def _with_lost_axes(xp: Any, y: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """Give back to what was reduced from `shape` the axes it lost, each of length 1."""
    lost = normal_axes(axis, len(shape))
    return xp.reshape(y, tuple(1 if i in lost else n for i, n in enumerate(shape)))


def _spread(xp: Any, dy: Array, shape: tuple[int, ...], axis: Axis) -> Array:
    """Undo a sum: repeat `dy` along the axes it lost."""
    return xp.broadcast_to(_with_lost_axes(xp, dy, shape, axis), shape)


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    return math.prod(shape[a] for a in normal_axes(axis, len(shape)))


@op
def sum(xp: Any, x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """Add up along `axis`: one, several, or all of them."""
    shape = tuple(x.shape)
    y = xp.sum(widen(xp, x), axis=axis, dtype=find_dtype(xp, dtype), keepdims=keepdims)
    return y if dtype is not None else narrow(xp, y, x), lambda dy: (_spread(xp, dy, shape, axis),)


@op
def mean(xp: Any, x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Average along `axis`: one, several, or all of them."""
    shape = tuple(x.shape)
    y = xp.mean(widen(xp, x), axis=axis, keepdims=keepdims)
    return narrow(xp, y, x), lambda dy: (_spread(xp, dy / _count(shape, axis), shape, axis),)


@op
def var(xp: Any, x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """Variance along `axis`, from centred values; the divisor is n - `correction`."""
    shape, wide = tuple(x.shape), widen(xp, x)
    centred = wide - xp.mean(wide, axis=axis, keepdims=True)
    divisor = _count(shape, axis) - correction
    y = xp.sum(centred * centred, axis=axis, keepdims=keepdims) / divisor
    return narrow(xp, y, x), lambda dy: (_spread(xp, dy, shape, axis) * centred * (2 / divisor),)


def std(x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """Square root of `var`."""
    return sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


@op
def max(xp: Any, x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """The greatest value along `axis`; equal ones share its gradient."""
    return _extreme(xp, x, xp.max(x, axis=axis, keepdims=keepdims), axis)


@op
def min(xp: Any, x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """The smallest value along `axis`; equal ones share its gradient."""
    return _extreme(xp, x, xp.min(x, axis=axis, keepdims=keepdims), axis)


def _extreme(xp: Any, x: Array, y: Array, axis: Axis) -> Any:
    def vjp(dy: Array) -> tuple[Array]:
        shape = tuple(x.shape)
        winners = xp.astype(x == _with_lost_axes(xp, y, shape, axis), dy.dtype)
        share = winners / xp.sum(winners, axis=axis, keepdims=True)
        return (_with_lost_axes(xp, dy, shape, axis) * share,)

    return y, vjp


@op
def cumulative_sum(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """Running total along one axis."""
    axis = normal_axis(axis, x.ndim)
    y = xp.cumulative_sum(widen(xp, x), axis=axis)

    def vjp(dy: Array) -> tuple[Array]:
        return (xp.flip(xp.cumulative_sum(xp.flip(widen(xp, dy), axis=axis), axis=axis), axis=axis),)

    return narrow(xp, y, x), vjp
