"""embedding: rows of a table, and the gradient of the table, which is the same at every run."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.memory import LARGEST, Array, served, type_of

_THREADS = 256
_BLOCKS = 32  # for each multiprocessor; with more work, threads take turns
_COLUMNS = 32  # of a warp
_HIGHEST = 65535  # blocks in y


def embedding(xp: Any, indices: Any, weight: Any) -> Any:
    """See `minidiff.ops.embedding`; it waits for the GPU, to learn whether an index is outside the table.

    While it is captured nobody can wait: a replay makes a row of NaN where an index is outside the table.
    """
    rows, width = weight.shape
    if not served(weight) or not indices.size or not weight.size or max(indices.size, rows) >= LARGEST:
        return NotImplemented
    flat = xp.astype(indices, xp.int64).reshape(-1)
    y = xp.empty((flat.size, width), dtype=weight.dtype)
    outside = xp.zeros((1,), dtype=np.int32)
    blocks = min(-(-y.size // _THREADS), _BLOCKS * engine.multiprocessors(xp))
    sizes = (np.int64(flat.size), np.int32(width), np.int64(rows))
    kernel = engine.load(xp, "embedding.cu", f"take_rows<{type_of(weight)}>")
    kernel((blocks,), (_THREADS,), (y, outside, flat, xp.ascontiguousarray(weight), *sizes))
    if not engine.capturing() and int(outside[0]):
        low, high = int(xp.min(flat)), int(xp.max(flat))
        raise IndexError(f"embedding: index {low if low < 0 else high} is outside 0 to {rows - 1}")

    def pull(dy: Array) -> Array:
        dweight = xp.empty(weight.shape, dtype=dy.dtype)
        grid = (rows, min(-(-width // _COLUMNS), _HIGHEST))
        kernel = engine.load(xp, "embedding.cu", f"add_rows<{type_of(dy)}>")
        arrays = (dweight, flat, xp.ascontiguousarray(dy))
        kernel(grid, (_COLUMNS,), (*arrays, np.int32(flat.size), np.int32(width)))
        return dweight

    return y.reshape(*indices.shape, width), lambda dy: (None, lambda: pull(dy))
