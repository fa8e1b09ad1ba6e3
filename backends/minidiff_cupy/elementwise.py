"""Arithmetic, activations, concat and pad of arrays that stay in their order of memory, channels-last for instance.

CuPy's own results are in C order unless the operands are dense in one and the same other order.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.memory import LARGEST, Array, alignment, empty_in_order, memory_order, served, type_of
from minidiff_cupy.sums import sum_columns

_MOST_AXES = 6  # as in elementwise.cu
_THREADS = 256
_BLOCKS = 32  # for each multiprocessor; with more work, threads take turns

_AXES = {
    name: np.dtype([(part, name, _MOST_AXES) for part in ("length", "y", "a", "b")])
    for name in ("int32", "int64")
}
_INDEX = {"int32": "int", "int64": "long long"}


def elementwise(xp: Any, function: str, y: Array, a: Array, b: Any = None, *numbers: float) -> Array:
    """Let y = function(a, b, *numbers), with a and b broadcast to the shape of y.

    Parameters
    ----------
    function : str
        Of those in elementwise.cu.
    y : array
        Written to; of up to six axes, with any strides.
    a, b : array
        Of the dtype of y.
    *numbers : float
        Up to two.
    """
    if y.size:
        arrays = (y, a) if b is None else (y, a, b)
        described = tuple((tuple(x.shape), x.strides, alignment(x)) for x in arrays)
        width, count, index, vectors, axes = _plan(described, y.dtype.itemsize)
        name = f"elementwise<{function}, {type_of(y)}, {width}, {count}, {_INDEX[index]}>"
        blocks = min(-(-vectors // _THREADS), _BLOCKS * engine.multiprocessors(xp))
        first, second = map(np.float32, (*numbers, 0.0, 0.0)[:2])
        arguments = (y, a, b, first, second, np.dtype(index).type(vectors), axes)
        engine.load(xp, "elementwise.cu", name)((blocks,), (_THREADS,), arguments)
    return y


@lru_cache(maxsize=4096)
def _plan(arrays: tuple[tuple[Any, Any, int], ...], itemsize: int) -> tuple[int, int, str, int, Any]:
    """Width of vectors, number of axes, type of indices, number of vectors, and the axes as the kernel takes them."""
    shape = arrays[0][0]
    steps = [[s // itemsize for s in _broadcast(x[0], x[1], len(shape))] for x in arrays]
    axes = _merged(shape, steps)
    innermost, *outer = axes
    width = math.gcd(innermost[0], 16 // itemsize)
    for array, (_, _, aligned) in enumerate(arrays, 1):
        if innermost[array] == 1:
            width = math.gcd(width, aligned // itemsize, *(axis[array] for axis in outer))
        elif innermost[array] != 0:
            width = 1
    reach = max(sum((n - 1) * abs(s[i]) for n, *s in axes) for i in range(len(arrays)))
    index = "int32" if max(reach, math.prod(shape)) <= LARGEST else "int64"
    axes[0] = (innermost[0] // width, *innermost[1:])
    packed = np.zeros((), dtype=_AXES[index])
    for i, axis in enumerate(axes):
        for part, value in zip(packed.dtype.names or (), axis, strict=False):
            packed[part][i] = value
    return width, len(axes), index, math.prod(shape) // width, packed[()]


def _broadcast(shape: tuple[int, ...], strides: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Strides of an array that is broadcast to `ndim` axes, 0 along those it does not have."""
    own = (0 if n == 1 else s for n, s in zip(shape, strides, strict=True))
    return (*(0,) * (ndim - len(shape)), *own)


def _merged(shape: tuple[int, ...], steps: list[list[int]]) -> list[tuple[int, ...]]:
    """(length, step of each array) of the axes, innermost of the first array first, as few as possible."""
    axes: list[tuple[int, ...]] = []
    for axis in sorted(range(len(shape)), key=lambda axis: (abs(steps[0][axis]), -axis)):
        length, *own = shape[axis], *(s[axis] for s in steps)
        if length == 1:
            continue
        if axes and all(s == axes[-1][0] * inner for s, inner in zip(own, axes[-1][1:], strict=True)):
            axes[-1] = (axes[-1][0] * length, *axes[-1][1:])
        else:
            axes.append((length, *own))
    return axes or [(1,) + (1,) * len(steps)]


def _possible(*arrays: Any) -> bool:
    return served(*arrays) and all(a.ndim <= _MOST_AXES for a in arrays)


def _new(xp: Any, function: str, a: Array, b: Any = None, *numbers: float) -> Array:
    """The function's value, in the order of memory of the first operand that has its shape."""
    shape = tuple(a.shape) if b is None else np.broadcast_shapes(tuple(a.shape), tuple(b.shape))
    order = next(
        (memory_order(x) for x in (a, b) if x is not None and tuple(x.shape) == shape),
        tuple(range(len(shape))),
    )
    return elementwise(xp, function, empty_in_order(xp, shape, order, a.dtype), a, b, *numbers)


def dense(xp: Any, x: Array) -> Array:
    """`x`, or a copy in its order of memory if that has gaps."""
    step = x.dtype.itemsize
    for axis in reversed(memory_order(x)):
        if x.shape[axis] != 1 and x.strides[axis] != step:
            return _new(xp, "Copy", x)
        step *= x.shape[axis]
    return x


def sum_to(xp: Any, dy: Array, shape: tuple[int, ...]) -> Array:
    """Undo broadcasting: add up `dy`, in float32, until it has `shape`."""
    if tuple(dy.shape) == shape:
        return dy
    full = (1,) * (dy.ndim - len(shape)) + shape
    dy = dense(xp, dy)
    order = memory_order(dy)
    stretched = [place for place, axis in enumerate(order) if full[axis] != dy.shape[axis]]
    if not stretched:
        return dy.reshape(shape)
    among, after = order[stretched[0] : stretched[-1] + 1], order[stretched[-1] + 1 :]
    columns = math.prod(dy.shape[axis] for axis in after)
    if columns == 1 or not dy.size or any(full[axis] != 1 for axis in among):
        wide = xp.astype(dy, xp.float32, copy=False)
        sums = xp.sum(wide, axis=tuple(order[place] for place in stretched))
        return xp.astype(sums, dy.dtype, copy=False).reshape(shape)
    rows = math.prod(dy.shape[axis] for axis in among)
    sums = sum_columns(xp, dy.transpose(order).reshape(-1, rows, columns), dy.dtype)
    inverse = sorted(range(dy.ndim), key=order.__getitem__)
    return sums.reshape([full[axis] for axis in order]).transpose(inverse).reshape(shape)


# --- functions of one array ------------------------------------------------------------------------------


def _function(name: str, xp: Any, x: Any) -> Any:
    if not _possible(x):
        return NotImplemented
    return _new(xp, name, x), lambda dy: (_new(xp, f"Pull{name}", x, dy),)


relu = partial(_function, "Relu")
sigmoid = partial(_function, "Sigmoid")
silu = partial(_function, "Silu")
square = partial(_function, "Square")
tanh = partial(_function, "Tanh")


def gelu(xp: Any, x: Any, *, approximate: str | None) -> Any:
    """See `minidiff.ops.gelu`."""
    return _function("Gelu" if approximate is None else "GeluTanh", xp, x)


def clip(xp: Any, x: Any, min: Any, max: Any) -> Any:
    """See `minidiff.ops.clip`; for limits that are numbers in their order."""
    if not _possible(x) or not all(_is_number(limit) or limit is None for limit in (min, max)):
        return NotImplemented
    low, high = -math.inf if min is None else min, math.inf if max is None else max
    if low > high:
        return NotImplemented
    limits = [float(x.dtype.type(limit)) for limit in (low, high)]  # as arrays of that type have them
    return _new(xp, "Clip", x, None, *limits), lambda dy: (_new(xp, "PullClip", x, dy, *limits),)


# --- arithmetic ------------------------------------------------------------------------------------------


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float)


def _value(xp: Any, function: str, reflected: str, x1: Any, x2: Any) -> Any:
    """function(x1, x2); `reflected` is the function of x2 if x1 is a number; None for what is not served."""
    if not _possible(*(x for x in (x1, x2) if not _is_number(x))):
        return None
    if _is_number(x1):
        return _new(xp, reflected, x2, None, x1)
    if _is_number(x2):
        return _new(xp, f"{function}Number", x1, None, x2)
    return _new(xp, function, x1, x2)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def add(xp: Any, x1: Any, x2: Any) -> Any:
    """See `minidiff.ops.add`."""
    y, s1, s2 = _value(xp, "Add", "AddNumber", x1, x2), _shape(x1), _shape(x2)
    if y is None:
        return NotImplemented
    return y, lambda dy: (lambda: sum_to(xp, dy, s1), lambda: sum_to(xp, dy, s2))


def subtract(xp: Any, x1: Any, x2: Any) -> Any:
    """See `minidiff.ops.subtract`."""
    y, s1, s2 = _value(xp, "Subtract", "SubtractFromNumber", x1, x2), _shape(x1), _shape(x2)
    if y is None:
        return NotImplemented
    return y, lambda dy: (lambda: sum_to(xp, dy, s1), lambda: scaled(xp, sum_to(xp, dy, s2), -1.0))


def multiply(xp: Any, x1: Any, x2: Any) -> Any:
    """See `minidiff.ops.multiply`."""
    y = _value(xp, "Multiply", "MultiplyNumber", x1, x2)
    if y is None:
        return NotImplemented
    if _is_number(x2):  # there is no array worth remembering
        return y, lambda dy: (scaled(xp, dy, x2),)
    if _is_number(x1):
        return y, lambda dy: (None, scaled(xp, dy, x1))

    def pull(dy: Array, other: Array, shape: tuple[int, ...]) -> Array:
        return sum_to(xp, _new(xp, "Multiply", dy, other), shape)

    return y, lambda dy: (lambda: pull(dy, x2, _shape(x1)), lambda: pull(dy, x1, _shape(x2)))


def divide(xp: Any, x1: Any, x2: Any) -> Any:
    """See `minidiff.ops.divide`; by a number only."""
    if not _is_number(x2) or not _possible(x1):
        return NotImplemented
    return _new(xp, "DivideNumber", x1, None, x2), lambda dy: (_new(xp, "DivideNumber", dy, None, x2),)


def negative(xp: Any, x: Any) -> Any:
    """See `minidiff.ops.negative`."""
    if not _possible(x):
        return NotImplemented
    return scaled(xp, x, -1.0), lambda dy: (scaled(xp, dy, -1.0),)


def scaled(xp: Any, x: Array, number: float) -> Array:
    """`x` times a number, in its order of memory."""
    return _new(xp, "MultiplyNumber", x, None, number)


# --- moving elements -------------------------------------------------------------------------------------


def concat(xp: Any, *arrays: Any, axis: int) -> Any:
    """See `minidiff.ops.concat`; the result lies in memory as the first of the arrays."""
    first = arrays[0]
    if not -first.ndim <= axis < first.ndim or not _possible(*arrays):
        return NotImplemented
    if any(_others(a, axis) != _others(first, axis) for a in arrays):
        return NotImplemented
    lengths = [a.shape[axis] for a in arrays]
    keys = [
        (slice(None),) * (axis % first.ndim) + (slice(end - length, end),)
        for end, length in zip(accumulate(lengths), lengths, strict=True)
    ]
    shape = list(first.shape)
    shape[axis] = sum(lengths)
    y = empty_in_order(xp, tuple(shape), memory_order(first), first.dtype)
    for key, a in zip(keys, arrays, strict=True):
        elementwise(xp, "Copy", y[key], a)

    def part(dy: Array, key: tuple[slice, ...]) -> Array:
        return dense(xp, dy[key])

    return y, lambda dy: [partial(part, dy, key) for key in keys]


def _others(x: Array, axis: int) -> tuple[int, list[int]]:
    """What arrays to be joined have in common."""
    return x.ndim, [n for i, n in enumerate(x.shape) if i != axis % x.ndim]


def pad(xp: Any, x: Any, pad_width: Any, *, value: float) -> Any:
    """See `minidiff.ops.pad`."""
    if not _possible(x) or len(pad_width) != x.ndim or any(n < 0 for sides in pad_width for n in sides):
        return NotImplemented
    shape = tuple(n + before + after for n, (before, after) in zip(x.shape, pad_width, strict=True))
    inside = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, pad_width, strict=True))
    y = empty_in_order(xp, shape, memory_order(x), x.dtype)
    y[...] = value
    elementwise(xp, "Copy", y[inside], x)
    return y, lambda dy: (dense(xp, dy[inside]),)
