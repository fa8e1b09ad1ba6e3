"""What to say when the GPU's memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["explained"]


@contextmanager
def explained(cupy: Any) -> Iterator[None]:
    """Let CuPy's error also say how much memory is free.

    Raises
    ------
    MemoryError
        With how many bytes were asked for, how many CuPy holds, and how many are left.
    """
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        free, total = cupy.cuda.runtime.memGetInfo()
        asked = str(error).rstrip(".")
        raise MemoryError(f"{asked}; {free:,} of the GPU's {total:,} bytes are free") from error
