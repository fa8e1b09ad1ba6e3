"""Many arrays copied in few launches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.alike import alike
from minidiff_cupy.memory import Array, address

__all__ = ["copy_all"]

_ROWS, _CHUNK, _THREADS = 128, 16384, 256  # as in copy.cu
_TABLE = np.dtype(
    [
        ("to", np.uint64, _ROWS),
        ("from", np.uint64, _ROWS),
        ("bytes", np.int64, _ROWS),
        ("first_block", np.int32, _ROWS),
    ]
)


def copy_all(xp: Any, pairs: Iterable[tuple[Array, Array]]) -> None:
    """Copy into the first array of each pair, which has no gaps, the second, of its shape and dtype."""
    rows = [(to, alike(xp, x, to)) for to, x in pairs if to.size]
    for first in range(0, len(rows), _ROWS):
        table, blocks = _packed(rows[first : first + _ROWS])
        engine.load(xp, "copy.cu", "copy_rows")((blocks,), (_THREADS,), (table,))


def _packed(rows: list[tuple[Array, Array]]) -> tuple[Any, int]:
    packed = np.zeros((), _TABLE)
    blocks = 0
    for i, (to, x) in enumerate(rows):
        packed["to"][i], packed["from"][i] = address(to), address(x)
        packed["bytes"][i] = to.nbytes
        packed["first_block"][i] = blocks
        blocks += -(-to.nbytes // _CHUNK)
    packed["first_block"][len(rows) :] = blocks
    return packed[()], blocks
