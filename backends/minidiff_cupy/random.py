"""Philox and normal numbers on the device: the bits are those of `minidiff.philox`, and of every other backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff_cupy import engine

__all__ = ["random_normal", "random_words"]

_THREADS = 256
_NUMBERS = {"float32": "float", "float64": "double", "float16": "half", "bfloat16": "bfloat16"}


def random_words(backend: Any, seed: int, stream: int, counter: int, blocks: int) -> Any:
    """Kernel of the rule of the same name in `minidiff.philox`: int64 (4 * blocks,)."""
    return _draw(backend, "random_words", 4 * blocks, backend.xp.int64, seed, stream, counter, blocks)


def random_normal(backend: Any, seed: int, stream: int, counter: int, size: int, dtype: Any) -> Any:
    """Kernel of the rule of the same name in `minidiff.philox`: `dtype` (size,)."""
    number = _NUMBERS.get(np.dtype(dtype).name)
    if number is None:
        return NotImplemented
    return _draw(backend, f"random_normal<{number}>", size, dtype, seed, stream, counter, size)


def _draw(
    backend: Any, name: str, size: int, dtype: Any, seed: int, stream: int, counter: int, amount: int
) -> Any:
    if engine.capturing():
        raise RuntimeError("random numbers drawn inside would be the same at every replay")
    out = backend.xp.empty(size, dtype=dtype)
    kernel = engine.load(backend.xp, "random.cu", name)
    arguments = (np.uint64(seed), np.uint64(stream), np.uint64(counter), np.int64(amount))
    kernel((-(-size // (4 * _THREADS)),), (_THREADS,), (out, *arguments))
    return out
