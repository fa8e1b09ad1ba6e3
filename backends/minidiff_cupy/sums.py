"""Sums over rows that come out the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.memory import TYPES, Array, type_of

_TILE = (32, 16)  # threads, over columns and rows
_LEAST = 1024  # rows, for which another launch is worth while


def sum_columns(xp: Any, x: Array, dtype: Any) -> Array:
    """(outer, rows, columns), contiguous -> (outer, columns) in `dtype`, summed in float32."""
    outer, rows, columns = x.shape
    blocks = outer * -(-columns // _TILE[0])
    splits = max(1, min(rows // _LEAST, 2 * engine.multiprocessors(xp) // max(1, blocks)))
    if splits > 1:
        return sum_columns(xp, _sums_of_splits(xp, x, splits, np.dtype(np.float32)), dtype)
    return _sums_of_splits(xp, x, 1, np.dtype(dtype)).reshape(outer, columns)


def _sums_of_splits(xp: Any, x: Array, splits: int, dtype: Any) -> Array:
    outer, rows, columns = x.shape
    sums = xp.empty((outer, splits, columns), dtype=dtype)
    kernel = engine.load(xp, "sums.cu", f"sum_columns<{type_of(x)}, {TYPES[dtype.name]}>")
    if sums.size:
        blocks = outer * splits * -(-columns // _TILE[0])
        sizes = map(np.int32, (rows, columns, splits, -(-rows // splits)))
        kernel((blocks,), _TILE, (sums, x, *sizes))
    return sums
