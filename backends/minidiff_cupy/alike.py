"""Arrays that lie alike in memory, so that a kernel can take them as one long row each."""

from __future__ import annotations

from typing import Any

from minidiff_cupy.memory import VECTOR_BYTES, Array, alignment, empty_in_order, memory_order

__all__ = ["alike", "dense", "empty_alike"]


def alike(xp: Any, x: Array, like: Array) -> Array:
    """`x` if it lies in memory as `like`, an array without gaps, does; else a copy that does."""
    if _strides(x) == _strides(like) and _is_aligned(x):
        return x
    y = empty_alike(xp, like, x.dtype)
    y[...] = x
    return y


def dense(xp: Any, x: Array) -> Array:
    """`x` if it lies in memory without gaps, its axes in any order; else a copy that does."""
    elements = 1
    for stride, side in sorted(_strides(x)):
        if stride != elements:
            return alike(xp, x, empty_alike(xp, x, x.dtype))
        elements *= side
    return alike(xp, x, x)


def empty_alike(xp: Any, like: Array, dtype: Any) -> Array:
    """A new array of the shape of `like`, without gaps, its axes in memory in the same order."""
    return empty_in_order(xp, tuple(like.shape), memory_order(like), dtype)


def _is_aligned(x: Array) -> bool:
    return alignment(x) == VECTOR_BYTES


def _strides(x: Array) -> list[tuple[int, int]]:
    """In elements, with the sides, of the axes that have more than one."""
    return [(stride // x.itemsize, n) for stride, n in zip(x.strides, x.shape, strict=True) if n > 1]
