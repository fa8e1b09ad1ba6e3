"""Arrays in memory that is used again.

The C library gives the memory of a large array back to the system when it is freed, and asks for it again with the
next one; the system then clears it, page by page. A network's forward spends up to a quarter of its time so. Large
arrays are therefore cut from chunks that are kept: the first gap that is wide enough is taken, and gaps that meet
become one. Chunks are kept for good: together they hold what was in use at one time.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from bisect import bisect
from collections import deque
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

__all__ = ["alike", "empty", "empty_like"]

Array: TypeAlias = np.ndarray[Any, Any]

_LARGE = 1 << 18  # bytes; smaller arrays are left to NumPy
_CHUNK = 1 << 28  # bytes, of which the system gives those that are written to
_PAGE = 4096
_OWN = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}  # or forks would share it


class _Chunk:
    """Memory from the system, and the gaps in it: where they begin and end, in order."""

    def __init__(self, size: int) -> None:
        memory = mmap.mmap(-1, size, **_OWN)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a system without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        self.bytes = np.frombuffer(memory, np.uint8)
        self.gaps = [(0, size)]

    def take(self, size: int) -> int | None:
        """Where `size` bytes begin, which now belong to the caller; None if no gap is wide enough."""
        for i, (begin, end) in enumerate(self.gaps):
            if end - begin >= size:
                self.gaps[i : i + 1] = [(begin + size, end)] if end - begin > size else []
                return begin
        return None

    def give(self, begin: int, end: int) -> None:
        """Make a gap, together with those on both sides."""
        i = bisect(self.gaps, (begin, end))
        first, last = i, i
        if i and self.gaps[i - 1][1] == begin:
            first, begin = i - 1, self.gaps[i - 1][0]
        if i < len(self.gaps) and self.gaps[i][0] == end:
            last, end = i + 1, self.gaps[i][1]
        self.gaps[first:last] = [(begin, end)]


class _Pool:
    """Chunks, the oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._returned: deque[tuple[_Chunk, int, int]] = deque()  # at any moment, in the middle of `lend` too
        self.chunks: list[_Chunk] = []

    def lend(self, size: int) -> tuple[_Chunk, int]:
        """A chunk, and where in it `size` bytes begin.

        Raises
        ------
        MemoryError
            If the system has no more.
        """
        with self._lock:
            self.settle()
            for chunk in self.chunks:
                begin = chunk.take(size)
                if begin is not None:
                    return chunk, begin
            try:
                chunk = _Chunk(max(size, _CHUNK))
            except OSError as error:
                raise MemoryError(f"no memory for an array of {size / 1e6:.0f} MB ({error})") from error
            self.chunks.append(chunk)
            begin = chunk.take(size)
            assert begin is not None
            return chunk, begin

    def after_fork(self) -> None:
        """The lock may be held by a thread of the parent, which the child does not have."""
        self._lock = threading.Lock()

    def take_back(self, chunk: _Chunk, begin: int, size: int) -> None:
        """Note that something is not in use any more; for `__del__`, which comes whenever it likes."""
        self._returned.append((chunk, begin, size))

    def settle(self) -> None:
        """Make gaps of what was returned."""
        while self._returned:
            chunk, begin, size = self._returned.popleft()
            chunk.give(begin, begin + size)


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _pool.after_fork())


class _Loan:
    """What an array and its views hold on to as long as one of them exists."""

    def __init__(self, pool: _Pool, chunk: _Chunk, begin: int, size: int) -> None:
        self._pool, self._place = pool, (chunk, begin, size)
        self.__array_interface__ = chunk.bytes[begin : begin + size].__array_interface__

    def __del__(self) -> None:
        self._pool.take_back(*self._place)


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """A contiguous array with whatever is in its memory."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    pages = -(-size // _PAGE) * _PAGE
    block = np.asarray(_Loan(_pool, *_pool.lend(pages), pages))
    array: Array = block[:size].view(dtype).reshape(shape)
    return array


def empty_like(x: Array) -> Array:
    """An array without gaps and with its axes in the order of those of `x`, with whatever is in its memory."""
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    back = sorted(range(x.ndim), key=order.__getitem__)
    return empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(back)


def alike(x: Array, like: Array) -> Array:
    """`x` if it lies in memory as `like`, an array without gaps, does; else a copy that does."""
    if x.strides == like.strides:
        return x
    y = empty_like(like)
    y[...] = x
    return y
