"""How work is cut into blocks that stay in the cache, one NumPy call after another.

A block is large, 2 MB of float32: threads that hand the interpreter to each other after calls of a few
microseconds spend more time waiting for it than computing.
"""

from __future__ import annotations

from collections.abc import Callable

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array

BLOCK = 1 << 19  # elements


def parts(length: int, row: int = 1, *, least: int) -> list[slice]:
    """`range(length)` in parts that are blocks of rows of `row` elements, in number `least` or a multiple of it."""
    count = max(1, least) * max(1, -(-length * row // (BLOCK * max(1, least))))
    step = max(1, -(-length // count))
    return [slice(n, min(n + step, length)) for n in range(0, length, step)]


def by_parts(function: Callable[..., object], y: Array, *arrays: Array, cost: int) -> None:
    """Call `function(*arrays, y)` for parts of arrays that can be broadcast to `y`, cut along its outermost axis.

    An element takes as long as `cost` multiplications.
    """
    axis = max((i for i in range(y.ndim) if y.shape[i] > 1), key=lambda i: y.strides[i], default=0)

    def part(some: slice) -> None:
        key = (*(slice(None),) * axis, some)
        function(*(a[key] if a.shape[axis] > 1 else a for a in (*arrays, y)))

    length, work = y.shape[axis], cost * y.size
    blocks = parts(length, y.size // max(1, length), least=lanes.sharing(work))
    lanes.each(part, blocks, multiplications=work)
