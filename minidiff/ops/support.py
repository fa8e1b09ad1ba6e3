"""What rules share: undoing a broadcast, accumulating in float32, dtypes by name, checks with numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from minidiff.backend import Array, is_array

_HALF = {"float16", "bfloat16"}
_FLOATING = _HALF | {"float32", "float64"}


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array; a Python number has shape ().

    A pullback that needs no more of an array holds this, and the array can go.
    """
    return tuple(getattr(x, "shape", ()))


def sum_to(xp: Any, dy: Array, shape: tuple[int, ...]) -> Array:
    """Undo broadcasting: add up `dy` until it has a shape that can be broadcast to its own."""
    if tuple(dy.shape) == shape:
        return dy
    extra = len(dy.shape) - len(shape)
    stretched = (i + extra for i, n in enumerate(shape) if n == 1 and dy.shape[i + extra] != 1)
    return xp.reshape(xp.sum(widen(xp, dy), axis=(*range(extra), *stretched)), shape)


_names: dict[
    tuple[type, Any], str
] = {}  # a cache of `dtype_name`; the type comes first, or strict dtypes warn


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of any library: "float32"."""
    key = (type(dtype), dtype)
    if key not in _names:
        _names[key] = _name(dtype)
    return _names[key]


def _name(dtype: Any) -> str:
    if isinstance(dtype, str):
        return dtype
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype).rpartition(".")[2]


def find_dtype(xp: Any, dtype: Any) -> Any:
    """The dtype object of library `xp` with the name of `dtype`; None stays None."""
    if dtype is None:
        return None
    name = dtype_name(dtype)
    if hasattr(xp, name):
        return getattr(xp, name)
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    raise TypeError(f"{xp.__name__} has no dtype {name!r}")


def is_half(x: Array) -> bool:
    """Whether `x` is float16 or bfloat16."""
    return dtype_name(x.dtype) in _HALF


def widen(xp: Any, x: Array) -> Array:
    """`x` in float32 if it is float16 or bfloat16, else itself: what sums are accumulated in."""
    return xp.astype(x, xp.float32) if is_half(x) else x


def narrow(xp: Any, y: Array, x: Array) -> Array:
    """A result `y` in the dtype of `x` if that is float16 or bfloat16, else itself."""
    return xp.astype(y, x.dtype) if y.dtype != x.dtype and is_half(x) else y


def cast(xp: Any, x: Array, like: Array) -> Array:
    """`x` in the dtype of `like`."""
    return x if x.dtype == like.dtype else xp.astype(x, like.dtype)


def device(x: Array) -> Any:
    """Where `x` lives, an object of its own library."""
    return array_api_compat.device(x)


def zeros(xp: Any, shape: Sequence[int], like: Array) -> Array:
    """Zeros of `shape`, with the dtype and on the device of `like`."""
    return xp.zeros(tuple(shape), dtype=like.dtype, device=device(like))


def constant(xp: Any, host: np.ndarray[Any, Any], like: Array) -> Array:
    """A small host array, with the dtype and on the device of `like`."""
    return xp.asarray(host.tolist(), dtype=like.dtype, device=device(like))


def numbers(xp: Any, count: int, like: Array) -> Array:
    """0 to `count` - 1, int64, on the device of `like`."""
    return xp.arange(count, dtype=xp.int64, device=device(like))


def as_array(xp: Any, x: Any, like: Array) -> Array:
    """A Python number as an array of shape (), with the dtype and on the device of `like`; arrays pass.

    Raises
    ------
    TypeError
        If `like` holds no floating numbers and `x` is one: it would be cut off.
    """
    if hasattr(x, "dtype"):
        return x
    if isinstance(x, float) and dtype_name(like.dtype) not in _FLOATING:
        raise TypeError(f"the number {x} does not fit into an array of {dtype_name(like.dtype)}")
    return xp.asarray(x, dtype=like.dtype, device=device(like))


def normal_axis(axis: int, ndim: int) -> int:
    """`axis` as a number from 0.

    Raises
    ------
    IndexError
        If an array of `ndim` axes does not have it.
    """
    if not -ndim <= axis < ndim:
        raise IndexError(f"axis {axis} is not one of the {ndim} axes of the array")
    return axis % ndim


def normal_axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """`axis`, all axes for None, as a tuple of numbers from 0."""
    axes = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(normal_axis(a, ndim) for a in axes)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """One number for both image axes, or one each."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def check_array(name: str, what: str, x: Any) -> None:
    """Raise TypeError unless `x` is an array (None passes)."""
    if x is not None and not is_array(x):
        raise TypeError(f"{name}: {what} must be an array, got {reprlib.repr(x)}")


def check_floating(name: str, **arrays: Any) -> None:
    """Raise TypeError unless all arrays (None passes) have one and the same floating dtype."""
    for key, x in arrays.items():
        check_array(name, key, x)
    names = {key: dtype_name(x.dtype) for key, x in arrays.items() if x is not None}
    key, dtype = next(iter(names.items()))
    if dtype not in _FLOATING:
        raise TypeError(
            f"{name}: {key} is {dtype}; convert it to a floating dtype first, for instance float32"
        )
    if len(set(names.values())) > 1:
        mixed = ", ".join(f"{k} is {d}" for k, d in names.items())
        raise TypeError(f"{name}: mixed dtypes ({mixed}); cast with ops.astype(x, dtype)")


def check_shape(name: str, what: str, x: Array | None, expected: tuple[int, ...], why: str) -> None:
    """Raise ValueError unless `x` (None passes) has the shape that is expected."""
    if x is not None and tuple(x.shape) != expected:
        raise ValueError(f"{name}: {what} has shape {tuple(x.shape)}, expected {expected} {why}")


def check_at_least(name: str, least: int, **values: int | tuple[int, ...]) -> None:
    """Raise ValueError if a number of pixels is below `least`."""
    for key, value in values.items():
        if min((value,) if isinstance(value, int) else value) < least:
            raise ValueError(f"{name}: {key} must be at least {least}, got {value}")


def check_images(name: str, x: Array) -> None:
    """Raise ValueError unless `x` has the four axes (N, C, H, W)."""
    if len(x.shape) != 4:
        raise ValueError(f"{name}: expected images of shape (N, C, H, W), got shape {tuple(x.shape)}")
