"""Operations that reduce, and the cumulative sum. float16 and bfloat16 are summed in float32."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.elementwise import sqrt
from minidiff.ops.support import Form, cast, find_dtype, form, is_half, normal_axes, normal_axis, widen

Axis = int | tuple[int, ...] | None


def _with_lost_axes(xp: Any, y: Array, like: Form | Array, axis: Axis) -> Array:
    """Give back to a reduced array the axes it lost, each of length 1."""
    lost = normal_axes(axis, like.ndim)
    return xp.reshape(y, tuple(1 if i in lost else n for i, n in enumerate(like.shape)))


def _spread(xp: Any, dy: Array, like: Form, axis: Axis) -> Array:
    """Undo a sum: repeat `dy` along the axes it lost."""
    return xp.broadcast_to(_with_lost_axes(xp, cast(xp, dy, like), like, axis), like.shape)


@op
def sum(xp: Any, x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """Add up along `axis`: one, several, or all of them."""
    y = xp.sum(widen(xp, x), axis=axis, dtype=find_dtype(xp, dtype), keepdims=keepdims)
    like = form(x)
    return cast(xp, y, x) if dtype is None and is_half(x) else y, lambda dy: (_spread(xp, dy, like, axis),)


@op
def mean(xp: Any, x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Average along `axis`: one, several, or all of them."""
    y = cast(xp, xp.mean(widen(xp, x), axis=axis, keepdims=keepdims), x)
    like = form(x)
    n = math.prod(like.shape[a] for a in normal_axes(axis, like.ndim))
    return y, lambda dy: (_spread(xp, dy / n, like, axis),)


@op
def var(xp: Any, x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """Variance along `axis`, from centred values; the divisor is n - `correction`."""
    wide, like = widen(xp, x), form(x)
    centred = wide - xp.mean(wide, axis=axis, keepdims=True)
    divisor = math.prod(like.shape[a] for a in normal_axes(axis, like.ndim)) - correction
    y = xp.sum(centred * centred, axis=axis, keepdims=keepdims) / divisor
    return cast(xp, y, x), lambda dy: (cast(xp, _spread(xp, dy, like, axis) * centred * (2 / divisor), like),)


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
        winners = xp.astype(x == _with_lost_axes(xp, y, x, axis), dy.dtype)
        return (_with_lost_axes(xp, dy, x, axis) * winners / xp.sum(winners, axis=axis, keepdims=True),)

    return y, vjp


@op
def cumulative_sum(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """Running total along one axis."""
    axis, like = normal_axis(axis, x.ndim), form(x)
    y = xp.cumulative_sum(widen(xp, x), axis=axis)

    def vjp(dy: Array) -> tuple[Array]:
        totals = xp.cumulative_sum(xp.flip(widen(xp, dy), axis=axis), axis=axis)
        return (cast(xp, xp.flip(totals, axis=axis), like),)

    return cast(xp, y, x) if is_half(x) else y, vjp
