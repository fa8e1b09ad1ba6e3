"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.elementwise import multiply
from minidiff.ops.shaping import permute_dims, reshape
from minidiff.ops.statistics import sum
from minidiff.ops.support import (
    check_floating,
    check_shape,
    narrow,
    normal_axes,
    sum_to,
    widen,
)


@op
def matmul(xp: Any, x1: Any, x2: Any, /) -> Any:
    """Matrix product of the last two axes, broadcast over the others; x1 @ x2."""
    if x1.ndim == 0 or x2.ndim == 0:
        raise ValueError("matmul: numbers have no matrix product; use multiply")
    if x1.shape[-1] != x2.shape[-2 if x2.ndim > 1 else 0]:
        raise ValueError(f"matmul: the inner lengths differ ({tuple(x1.shape)} @ {tuple(x2.shape)})")
    a = x1[None, :] if x1.ndim == 1 else x1
    b = x2[:, None] if x2.ndim == 1 else x2
    y = xp.matmul(widen(xp, a), widen(xp, b))
    y = narrow(xp, y, x1) if x1.dtype == x2.dtype else y
    full = tuple(y.shape)
    lost = ((-2,) if x1.ndim == 1 else ()) + ((-1,) if x2.ndim == 1 else ())

    def vjp(dy: Array) -> tuple[Any, ...]:
        dy = widen(xp, xp.reshape(dy, full))

        def dx1() -> Array:
            da = xp.matmul(dy, xp.matrix_transpose(widen(xp, b)))
            return xp.reshape(sum_to(xp, da, tuple(a.shape)), x1.shape)

        def dx2() -> Array:
            db = xp.matmul(xp.matrix_transpose(widen(xp, a)), dy)
            return xp.reshape(sum_to(xp, db, tuple(b.shape)), x2.shape)

        return dx1, dx2

    return xp.squeeze(y, axis=lost) if lost else y, vjp


def check_linear(x: Array, weight: Array, bias: Any) -> None:
    """The errors of `linear`."""
    check_floating("linear", x=x, weight=weight, bias=bias)
    if len(weight.shape) != 2 or not x.shape or x.shape[-1] != weight.shape[1]:
        shapes = f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}"
        raise ValueError(f"linear: expected x (..., C) and weight (O, C), but {shapes}")
    check_shape("linear", "bias", bias, (weight.shape[0],), "for the rows of weight")


@op(check=check_linear)
def linear(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """Multiply the last axis by a matrix, x @ weight.T + bias.

    Parameters
    ----------
    x : array, shape (..., C)
    weight : array, shape (O, C)
    bias : array, shape (O,), optional

    Returns
    -------
    array, shape (..., O)

    Raises
    ------
    ValueError
        If the widths differ, or `bias` has not one number for each.
    TypeError
        If the dtypes differ or are not floating.
    """
    out, width = weight.shape
    lead = tuple(x.shape[:-1])
    rows = xp.reshape(x, (math.prod(lead), width))
    y = xp.matmul(widen(xp, rows), widen(xp, weight).T)
    y = narrow(xp, y if bias is None else y + widen(xp, bias), x)

    def vjp(dy: Array) -> tuple[Any, ...]:
        dy = widen(xp, xp.reshape(dy, (math.prod(lead), out)))
        return (
            lambda: xp.reshape(xp.matmul(dy, widen(xp, weight)), (*lead, width)),
            lambda: xp.matmul(dy.T, widen(xp, rows)),
            lambda: xp.sum(dy, axis=0),
        )

    return xp.reshape(y, (*lead, out)), vjp


def tensordot(x1: Any, x2: Any, /, *, axes: int | tuple[tuple[int, ...], tuple[int, ...]] = 2) -> Any:
    """Sum of products over `axes`: the last n of x1 with the first n of x2, or two tuples of axes."""
    if isinstance(axes, int):
        axes = (tuple(range(x1.ndim - axes, x1.ndim)), tuple(range(axes)))
    left, right = (normal_axes(tuple(side), x.ndim) for x, side in zip((x1, x2), axes, strict=True))
    keep1 = [i for i in range(x1.ndim) if i not in left]
    keep2 = [i for i in range(x2.ndim) if i not in right]
    inner = math.prod(x1.shape[i] for i in left)
    shape1, shape2 = [x1.shape[i] for i in keep1], [x2.shape[i] for i in keep2]
    a = reshape(permute_dims(x1, (*keep1, *left)), (math.prod(shape1), inner))
    b = reshape(permute_dims(x2, (*right, *keep2)), (inner, math.prod(shape2)))
    return reshape(matmul(a, b), (*shape1, *shape2))


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Sum of products along one axis, broadcast over the others."""
    return sum(multiply(x1, x2), axis=axis)
