"""How work is cut into blocks that stay in the cache, one NumPy call after another.

A block is large, 2 MB of float32: threads that hand the interpreter to each other after calls of a few
microseconds spend more time waiting for it than computing.
"""

from __future__ import annotations

BLOCK = 1 << 19  # elements


def parts(length: int, row: int = 1, *, least: int) -> list[slice]:
    """`range(length)` in parts that are blocks of rows of `row` elements, in number `least` or a multiple of it."""
    count = max(1, least) * max(1, -(-length * row // (BLOCK * max(1, least))))
    step = max(1, -(-length // count))
    return [slice(n, min(n + step, length)) for n in range(0, length, step)]
