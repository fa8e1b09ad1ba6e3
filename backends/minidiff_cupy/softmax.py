"""softmax and log_softmax along any axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.memory import LARGEST, Array, served, type_of, vector_width

_WARPS = 4  # in a block
_BLOCKS = 32  # for each multiprocessor; with more rows, warps take turns


def softmax(xp: Any, x: Any, *, axis: int) -> Any:
    """See `minidiff.ops.softmax`."""
    return _softmax(xp, x, axis, log=False)


def log_softmax(xp: Any, x: Any, *, axis: int) -> Any:
    """See `minidiff.ops.log_softmax`."""
    return _softmax(xp, x, axis, log=True)


def _softmax(xp: Any, x: Any, axis: int, *, log: bool) -> Any:
    if not served(x) or not x.size or x.shape[axis] >= LARGEST:
        return NotImplemented
    before = _last(xp, x, axis)
    shifts = xp.empty(before.shape[:-1], dtype=np.float32) if log else None
    y = _by_rows(xp, "softmax", shifts, before)
    known = before if log else y

    def vjp(dy: Array) -> tuple[Array]:
        dx = _by_rows(xp, "pull_softmax", shifts, _last(xp, dy, axis), known)
        return (xp.moveaxis(dx, -1, axis),)

    return xp.moveaxis(y, -1, axis), vjp


def _last(xp: Any, x: Array, axis: int) -> Array:
    """`x` with its axis as the last one, contiguous."""
    return xp.ascontiguousarray(xp.moveaxis(x, axis, -1))


def _by_rows(xp: Any, name: str, shifts: Any, *arrays: Array) -> Array:
    """What kernel `name` makes of `arrays`; with `shifts`, for log_softmax."""
    shape = arrays[0].shape
    y = xp.empty(shape, dtype=arrays[0].dtype)
    v = vector_width(shape[-1], y, *arrays)
    rows = y.size // shape[-1]
    blocks = min(-(-rows // _WARPS), _BLOCKS * engine.multiprocessors(xp))
    log = "false" if shifts is None else "true"
    kernel = engine.load(xp, "softmax.cu", f"{name}<{type_of(y)}, {v}, {log}>")
    kernel((blocks,), (32, _WARPS), (y, shifts, *arrays, np.int64(rows), np.int32(shape[-1])))
    return y
