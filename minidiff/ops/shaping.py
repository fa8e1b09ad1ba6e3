"""Operations that move elements without changing them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.support import device, dtype_name, normal_axes, normal_axis, sum_to, zeros


def _at(axis: int, ndim: int, index: int | slice) -> tuple[int | slice, ...]:
    """The key that takes `index` along one axis and everything along the others."""
    key: list[int | slice] = [slice(None)] * ndim
    key[axis] = index
    return tuple(key)


@op
def reshape(xp: Any, x: Any, /, shape: tuple[int, ...]) -> Any:
    """The same elements, in row-major order, under another shape; one length may be -1."""
    before = tuple(x.shape)
    return xp.reshape(x, tuple(shape)), lambda dy: (xp.reshape(dy, before),)


@op
def permute_dims(xp: Any, x: Any, /, axes: tuple[int, ...]) -> Any:
    """Axis i of the result is axis `axes[i]` of x."""
    inverse = tuple(sorted(range(len(axes)), key=normal_axes(tuple(axes), x.ndim).__getitem__))
    return xp.permute_dims(x, tuple(axes)), lambda dy: (xp.permute_dims(dy, inverse),)


def matrix_transpose(x: Any, /) -> Any:
    """The last two axes exchanged."""
    return permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def moveaxis(x: Any, source: int | tuple[int, ...], destination: int | tuple[int, ...], /) -> Any:
    """Axes `source` moved to the places `destination`; the others keep their order."""
    moved = dict(zip(normal_axes(destination, x.ndim), normal_axes(source, x.ndim), strict=True))
    rest = iter(i for i in range(x.ndim) if i not in moved.values())
    return permute_dims(x, tuple(moved[i] if i in moved else next(rest) for i in range(x.ndim)))


@op
def expand_dims(xp: Any, x: Any, /, *, axis: int = 0) -> Any:
    """Insert an axis of length 1."""
    before = tuple(x.shape)
    return xp.expand_dims(x, axis=axis), lambda dy: (xp.reshape(dy, before),)


@op
def squeeze(xp: Any, x: Any, /, axis: int | tuple[int, ...]) -> Any:
    """Remove axes of length 1."""
    before = tuple(x.shape)
    return xp.squeeze(x, axis=axis), lambda dy: (xp.reshape(dy, before),)


@op
def concat(xp: Any, *arrays: Any, axis: int = 0) -> Any:
    """Join a sequence of arrays along an axis that they have."""
    ndim = arrays[0].ndim
    axis = normal_axis(axis, ndim)
    lengths = [a.shape[axis] for a in arrays]
    keys = [_at(axis, ndim, slice(end - n, end)) for end, n in zip(accumulate(lengths), lengths, strict=True)]
    return xp.concat(arrays, axis=axis), lambda dy: [dy[key] for key in keys]


@op
def stack(xp: Any, *arrays: Any, axis: int = 0) -> Any:
    """Join a sequence of arrays of one shape along a new axis."""
    ndim, count = arrays[0].ndim + 1, len(arrays)
    axis = normal_axis(axis, ndim)
    return xp.stack(arrays, axis=axis), lambda dy: [dy[_at(axis, ndim, i)] for i in range(count)]


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The slices of x along an axis, as a tuple of arrays."""
    axis = normal_axis(axis, x.ndim)
    return tuple(getitem(x, _at(axis, x.ndim, i)) for i in range(x.shape[axis]))


@op
def flip(xp: Any, x: Any, /, *, axis: int | tuple[int, ...] | None = None) -> Any:
    """Reverse the order along `axis`: one, several, or all of them."""
    return xp.flip(x, axis=axis), lambda dy: (xp.flip(dy, axis=axis),)


@op
def roll(xp: Any, x: Any, /, shift: Any, *, axis: Any = None) -> Any:
    """Move elements on by `shift`, and those that fall off back to the start."""
    back = -shift if isinstance(shift, int) else tuple(-s for s in shift)
    return xp.roll(x, shift, axis=axis), lambda dy: (xp.roll(dy, back, axis=axis),)


@op
def broadcast_to(xp: Any, x: Any, /, shape: tuple[int, ...]) -> Any:
    """Repeat x, without a copy where the library can, to a longer shape."""
    before = tuple(x.shape)
    return xp.broadcast_to(x, tuple(shape)), lambda dy: (sum_to(xp, dy, before),)


def broadcast_arrays(*arrays: Any) -> list[Any]:
    """All arrays, broadcast to their common shape."""
    shape = np.broadcast_shapes(*(tuple(a.shape) for a in arrays))
    return [broadcast_to(a, shape) for a in arrays]


def repeat(x: Any, repeats: int, /, *, axis: int) -> Any:
    """Each element `repeats` times in a row along `axis`."""
    axis = normal_axis(axis, x.ndim)
    longer = (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
    return reshape(
        broadcast_to(expand_dims(x, axis=axis + 1), longer),
        (*x.shape[:axis], x.shape[axis] * repeats, *x.shape[axis + 1 :]),
    )


def tile(x: Any, repetitions: tuple[int, ...], /) -> Any:
    """Lay x side by side, `repetitions[i]` times along axis i (counted from the last, as in the standard)."""
    ndim = max(x.ndim, len(repetitions))
    shape = (1,) * (ndim - x.ndim) + tuple(x.shape)
    counts = (1,) * (ndim - len(repetitions)) + tuple(repetitions)
    apart = reshape(x, tuple(n for length in shape for n in (1, length)))
    spread = broadcast_to(
        apart, tuple(n for c, length in zip(counts, shape, strict=True) for n in (c, length))
    )
    return reshape(spread, tuple(c * length for c, length in zip(counts, shape, strict=True)))


@op
def pad(xp: Any, x: Any, /, pad_width: Sequence[tuple[int, int]], *, value: float = 0.0) -> Any:
    """Put `value` around x: `pad_width[i]` is how many before and after along axis i, each 0 or more."""
    if len(pad_width) != x.ndim or any(n < 0 for sides in pad_width for n in sides):
        raise ValueError(
            f"pad: expected {x.ndim} pairs of numbers from 0 for shape {tuple(x.shape)}, got {pad_width}"
        )
    shape = tuple(n + before + after for n, (before, after) in zip(x.shape, pad_width, strict=True))
    inside = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, pad_width, strict=True))
    y = xp.full(shape, value, dtype=x.dtype, device=device(x))
    y[inside] = x
    return y, lambda dy: (dy[inside],)


@op
def getitem(xp: Any, x: Any, key: Any, /) -> Any:
    """x[key] for a key of integers, slices, `...` and None, or one boolean array; what `tensor[key]` calls.

    Rows chosen by an integer array are `take` or `embedding`.
    """
    for k in key if isinstance(key, tuple) else (key,):
        plain = k is None or k is ... or isinstance(k, int | slice | np.integer)
        if not plain and not (hasattr(k, "dtype") and dtype_name(k.dtype) == "bool"):
            raise TypeError(
                f"getitem: a key holds integers, slices, ..., None or a boolean array, not {type(k).__name__} "
                "of numbers; for those use ops.take(x, indices, axis=...)"
            )
    shape = tuple(x.shape)

    def vjp(dy: Array) -> tuple[Array]:
        dx = zeros(xp, shape, dy)
        old = tuple(k for k in key if k is not None) if isinstance(key, tuple) else key
        dx[old] = xp.reshape(dy, dx[old].shape)  # the standard has no new axes on the left of `=`
        return (dx,)

    return x[key], vjp


@op
def tril(xp: Any, x: Any, /, *, k: int = 0) -> Any:
    """The lower triangle of each matrix, zeros elsewhere."""
    return xp.tril(x, k=k), lambda dy: (xp.tril(dy, k=k),)


@op
def triu(xp: Any, x: Any, /, *, k: int = 0) -> Any:
    """The upper triangle of each matrix, zeros elsewhere."""
    return xp.triu(x, k=k), lambda dy: (xp.triu(dy, k=k),)
