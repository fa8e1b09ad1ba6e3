"""How arrays lie in memory, and what that lets a kernel do."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

Array: TypeAlias = Any

TYPES = {"float32": "float", "float16": "half", "bfloat16": "bfloat16"}  # of arrays, and of the same in CUDA
VECTOR_BYTES = 16  # that one instruction moves
LARGEST = 1 << 30  # numbers up to here, and one block more, are counted in 32 bits


def served(*arrays: Any) -> bool:
    """Whether all arrays (None passes) have one and the same dtype of those that kernels compute with."""
    names = {_type_named(a.dtype) for a in arrays if a is not None}
    return len(names) == 1 and None not in names


def type_of(x: Array) -> str:
    """The CUDA type of the elements of `x`."""
    return str(_type_named(x.dtype))


@functools.cache
def _type_named(dtype: Any) -> str | None:
    """The CUDA type of a dtype, or None. NumPy makes up the name of a dtype anew each time, which takes 2 µs."""
    return TYPES.get(dtype.name)


def alignment(x: Array) -> int:
    """The largest power of two up to 16 at whose multiple the first element of `x` lies, in bytes."""
    return math.gcd(address(x), VECTOR_BYTES)


def address(x: Array) -> int:
    """Where the first element of `x` lies."""
    if hasattr(type(x), "__cuda_array_interface__"):  # of CuPy, which is asked more quickly in its own way
        return int(x.data.ptr)
    return int(x.__array_interface__["data"][0])


def vector_width(length: int, *arrays: Array) -> int:
    """How many neighbours can be moved at once in rows of `length` elements of arrays that have no gaps."""
    widest = min(map(alignment, arrays)) // arrays[0].dtype.itemsize
    return math.gcd(length, widest)


def channels_last(xp: Any, x: Array) -> Array:
    """(N, C, *S) -> (N, *S, C), contiguous; a copy only if the memory is not in that order already."""
    return xp.ascontiguousarray(x.transpose((0, *range(2, x.ndim), 1)))


def channels_first(x: Array) -> Array:
    """(N, *S, C) -> (N, C, *S), a view."""
    return x.transpose((0, x.ndim - 1, *range(1, x.ndim - 1)))


def memory_order(x: Array) -> tuple[int, ...]:
    """The axes of `x` from the outermost to the innermost; of equal steps, as in C."""
    steps = x.strides
    return tuple(sorted(range(x.ndim), key=lambda axis: (-abs(steps[axis]), axis)))


def empty_in_order(xp: Any, shape: tuple[int, ...], order: tuple[int, ...], dtype: Any) -> Array:
    """A new array without gaps, whose axes lie in memory in `order`, the outermost first."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return xp.empty(tuple(shape[axis] for axis in order), dtype=dtype).transpose(inverse)
