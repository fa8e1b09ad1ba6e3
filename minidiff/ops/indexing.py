"""Choosing elements by arrays of integers; gradients of elements chosen twice add up."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.support import (
    check_array,
    check_floating,
    dtype_name,
    normal_axis,
    numbers,
    widen,
    zeros,
)

_LARGEST_ONE_HOT = 1 << 22  # elements


def add_rows(xp: Any, rows: Array, indices: Array, count: int) -> Array:
    """Scatter-add in float32 at least: y[indices[i]] += rows[i], by products with one-hot matrices.

    No library-neutral scatter exists in the standard; a matrix product is deterministic everywhere.
    """
    wide = widen(xp, rows)
    y = zeros(xp, (count, rows.shape[1]), wide)
    names = numbers(xp, count, rows)
    step = max(1, _LARGEST_ONE_HOT // max(1, count))
    for start in range(0, rows.shape[0], step):
        part = slice(start, min(start + step, rows.shape[0]))
        one_hot = xp.astype(names[:, None] == indices[None, part], wide.dtype)
        y = y + xp.matmul(one_hot, wide[part, :])
    return y


@op
def take(xp: Any, x: Any, indices: Any, /, *, axis: int) -> Any:
    """The slices of x along `axis` that a one-dimensional array of integers names."""
    axis, shape = normal_axis(axis, x.ndim), tuple(x.shape)
    _check_integers("take", indices)
    indices = xp.astype(indices, xp.int64)
    rest = shape[:axis] + shape[axis + 1 :]

    def vjp(dy: Array) -> tuple[Array]:
        rows = xp.reshape(xp.moveaxis(dy, axis, 0), (indices.shape[0], math.prod(rest)))
        dx = add_rows(xp, rows, indices % shape[axis], shape[axis])
        return (xp.moveaxis(xp.reshape(dx, (shape[axis], *rest)), 0, axis),)

    return xp.take(x, indices, axis=axis), vjp


@op
def take_along_axis(xp: Any, x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """y[..., j] = x[..., indices[..., j]] along `axis`; the other axes of both agree."""
    axis = normal_axis(axis, x.ndim)
    count = x.shape[axis]
    _check_integers("take_along_axis", indices)
    indices = xp.astype(indices, xp.int64)

    def vjp(dy: Array) -> tuple[Array]:
        chosen = xp.moveaxis(indices % count, axis, -1)[..., None, :] == numbers(xp, count, dy)[:, None]
        wide = widen(xp, xp.moveaxis(dy, axis, -1))[..., None, :]
        dx = xp.sum(xp.where(chosen, wide, xp.zeros_like(wide)), axis=-1)
        return (xp.moveaxis(dx, -1, axis),)

    return xp.take_along_axis(x, indices, axis=axis), vjp


def _check_integers(name: str, indices: Array) -> None:
    check_array(name, "indices", indices)
    if "int" not in dtype_name(indices.dtype):
        raise TypeError(f"{name}: indices must be integers, got {dtype_name(indices.dtype)}")


def check_embedding(indices: Array, weight: Array) -> None:
    """The errors of `embedding`, except for indices that are out of range."""
    _check_integers("embedding", indices)
    check_floating("embedding", weight=weight)
    if len(weight.shape) != 2:
        raise ValueError(f"embedding: expected a weight of shape (K, D), got {tuple(weight.shape)}")


@op(check=check_embedding)
def embedding(xp: Any, indices: Any, weight: Any, /) -> Any:
    """Look up rows of a table.

    Parameters
    ----------
    indices : array of integers, shape S
        Each from 0 to K - 1.
    weight : array, shape (K, D)

    Returns
    -------
    array, shape (*S, D)

    Raises
    ------
    TypeError
        If `indices` are not integers.
    IndexError
        If an index is outside the table.
    """
    count, width = weight.shape
    flat = xp.reshape(xp.astype(indices, xp.int64), (math.prod(indices.shape),))
    if flat.shape[0]:
        low, high = int(xp.min(flat)), int(xp.max(flat))
        if low < 0 or high >= count:
            raise IndexError(f"embedding: index {low if low < 0 else high} is outside 0 to {count - 1}")

    def vjp(dy: Array) -> tuple[Any, ...]:
        return None, lambda: add_rows(xp, xp.reshape(dy, (flat.shape[0], width)), flat, count)

    return xp.reshape(xp.take(weight, flat, axis=0), (*indices.shape, width)), vjp
