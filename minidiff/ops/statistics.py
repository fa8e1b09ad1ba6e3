"""Operations that reduce, and the cumulative sum. float16 and bfloat16 are summed in float32."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.elementwise import sqrt
from minidiff.ops.support import cast, find_dtype, normal_axes, widen

Axis = int | tuple[int, ...] | None


def _spread(xp: Any, dy: Array, x: Array, axis: Axis) -> Array:
    """Undo a sum: repeat `dy` along the axes it lost."""
    return xp.broadcast_to(_with_lost_axes(xp, dy, x, axis), x.shape)


def _with_lost_axes(xp: Any, y: Array, x: Array, axis: Axis) -> Array:
    lost = normal_axes(axis, x.ndim)
    return xp.reshape(y, tuple(1 if i in lost else n for i, n in enumerate(x.shape)))


@op
def sum(xp: Any, x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Any:
    """Add up along `axis`: one, several, or all of them."""
    y = xp.sum(widen(xp, x), axis=axis, dtype=find_dtype(xp, dtype), keepdims=keepdims)
    y = cast(xp, y, x) if dtype is None and xp.isdtype(x.dtype, "real floating") else y
    return y, lambda dy: (_spread(xp, cast(xp, dy, x), x, axis),)


@op
def mean(xp: Any, x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Average along `axis`: one, several, or all of them."""
    y = cast(xp, xp.mean(widen(xp, x), axis=axis, keepdims=keepdims), x)
    n = math.prod(x.shape[a] for a in normal_axes(axis, x.ndim))
    return y, lambda dy: (_spread(xp, dy / n, x, axis),)


@op
def var(xp: Any, x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """Variance along `axis`, from centred values; the divisor is n - `correction`."""
    wide = widen(xp, x)
    centred = wide - xp.mean(wide, axis=axis, keepdims=True)
    divisor = math.prod(x.shape[a] for a in normal_axes(axis, x.ndim)) - correction
    y = xp.sum(centred * centred, axis=axis, keepdims=keepdims) / divisor
    return cast(xp, y, x), lambda dy: (cast(xp, _spread(xp, dy, x, axis) * centred * (2 / divisor), x),)


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
    axis = axis % x.ndim
    y = cast(xp, xp.cumulative_sum(widen(xp, x), axis=axis), x)

    def vjp(dy: Array) -> tuple[Array]:
        return (xp.flip(xp.cumulative_sum(xp.flip(dy, axis=axis), axis=axis), axis=axis),)

    return y, vjp
