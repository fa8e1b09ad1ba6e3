"""Choosing elements by arrays of integers; gradients of elements chosen twice add up."""

from __future__ import annotations

from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.support import zeros

_LARGEST_ONE_HOT = 1 << 22  # elements


def add_rows(xp: Any, rows: Array, indices: Array, count: int) -> Array:
    """Scatter-add: y[indices[i]] += rows[i], for y of `count` rows, as products with one-hot matrices.

    No library-neutral scatter exists in the standard; a matrix product is deterministic everywhere.
    """
    y = zeros(xp, (count, rows.shape[1]), rows)
    numbers = xp.arange(count, dtype=indices.dtype, device=indices.device)
    step = max(1, _LARGEST_ONE_HOT // max(1, count))
    for start in range(0, rows.shape[0], step):
        part = slice(start, start + step)
        one_hot = xp.astype(numbers[:, None] == indices[None, part], rows.dtype)
        y = y + one_hot @ rows[part, :]
    return y


@op
def take(xp: Any, x: Any, indices: Any, /, *, axis: int) -> Any:
    """The slices of x along `axis` that a one-dimensional array of integers names."""
    axis = axis % x.ndim
    rest = tuple(n for i, n in enumerate(x.shape) if i != axis)

    def vjp(dy: Array) -> tuple[Array]:
        rows = xp.reshape(xp.moveaxis(dy, axis, 0), (indices.shape[0], -1))
        dx = add_rows(xp, rows, indices % x.shape[axis], x.shape[axis])
        return (xp.moveaxis(xp.reshape(dx, (x.shape[axis], *rest)), 0, axis),)

    return xp.take(x, indices, axis=axis), vjp


@op
def take_along_axis(xp: Any, x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """y[..., j] = x[..., indices[..., j]] along `axis`; the other axes of both agree."""
    axis = axis % x.ndim

    def vjp(dy: Array) -> tuple[Array]:
        numbers = xp.arange(x.shape[axis], dtype=indices.dtype, device=indices.device)
        chosen = xp.moveaxis(indices, axis, -1)[..., None, :] == numbers[:, None]
        dx = xp.sum(xp.astype(chosen, dy.dtype) * xp.moveaxis(dy, axis, -1)[..., None, :], axis=-1)
        return (xp.moveaxis(dx, -1, axis),)

    return xp.take_along_axis(x, indices, axis=axis), vjp


@op
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
    if not xp.isdtype(indices.dtype, "integral"):
        raise TypeError(f"embedding: indices must be integers, got {indices.dtype}")
    count, width = weight.shape
    flat = xp.reshape(indices, (-1,))
    if flat.shape[0]:
        low, high = int(xp.min(flat)), int(xp.max(flat))
        if low < 0 or high >= count:
            raise IndexError(f"embedding: index {low if low < 0 else high} is outside 0 to {count - 1}")

    def vjp(dy: Array) -> tuple[Any, ...]:
        return None, lambda: add_rows(xp, xp.reshape(dy, (-1, width)), flat, count)

    return xp.reshape(xp.take(weight, flat, axis=0), (*indices.shape, width)), vjp
