"""Arrays in memory that is used again.

The C library gives the memory of a large array back to the system as soon as it is freed, and asks for it again
with the next one; the system then clears it, page by page. A network's forward spends a tenth of its time so.
Here, memory that nobody looks at any more waits for the next array of its size.
"""

from __future__ import annotations

import math
import threading
from typing import Any, TypeAlias

import numpy as np

__all__ = ["empty", "empty_like"]

Array: TypeAlias = np.ndarray[Any, Any]

_LARGE = 1 << 18  # bytes; the C library keeps smaller blocks itself
_MOST = 1.1  # times as much as was lent at one time is kept: blocks that wait are not all of the sizes that are needed


class _Pool:
    """Blocks of memory, lent and waiting, which together are hardly more than what was lent at one time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a block may return in the middle of `lend`, in the same thread
        self._waiting: dict[int, list[Array]] = {}  # by size, the size that was not needed for longest first
        self.lent = self.waiting = self.most = 0  # bytes

    def lend(self, size: int) -> Array:
        with self._lock:
            self.lent += size
            self.most = max(self.most, self.lent)
            if size in self._waiting:
                return self._drop(size)
            while self._waiting and self.lent + self.waiting > _MOST * self.most:
                self._drop(next(iter(self._waiting)))
        return np.empty(size, np.uint8)

    def take_back(self, block: Array) -> None:
        with self._lock:
            self.lent -= block.size
            self.waiting += block.size
            same = self._waiting.pop(block.size, [])
            same.append(block)
            self._waiting[block.size] = same

    def _drop(self, size: int) -> Array:
        same = self._waiting[size]
        block = same.pop()
        if not same:
            del self._waiting[size]
        self.waiting -= size
        return block


_pool = _Pool()


class _Loan:
    """What an array and its views hold on to as long as one of them exists."""

    def __init__(self, pool: _Pool, size: int) -> None:
        self._pool, self._block = pool, pool.lend(size)
        self.__array_interface__ = self._block.__array_interface__

    def __del__(self) -> None:
        self._pool.take_back(self._block)


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """A contiguous array with whatever is in its memory."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    block = np.asarray(_Loan(_pool, size))
    array: Array = block.view(dtype).reshape(shape)
    return array


def empty_like(x: Array) -> Array:
    """An array without gaps and with its axes in the order of those of `x`, with whatever is in its memory."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    back = sorted(range(x.ndim), key=order.__getitem__)
    return empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(back)
