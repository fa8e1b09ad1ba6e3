"""The weighted sum of arrays, in one launch: what a sampler makes of images and noise in a step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.alike import alike, dense, empty_alike
from minidiff_cupy.elementwise import scaled
from minidiff_cupy.memory import Array, address, served, type_of, vector_width

__all__ = ["linear_combination"]

_MOST, _THREADS = 8, 256  # as in linear_combination.cu
_TERMS = np.dtype(
    [("array", np.uint64, _MOST), ("factor", np.float32, _MOST), ("count", np.int32)], align=True
)


def linear_combination(xp: Any, *arrays: Array, coefficients: Sequence[float]) -> Any:
    """See `minidiff.ops.linear_combination`; of up to 8 arrays, and the result lies in memory as the first."""
    if len(arrays) > _MOST or not served(*arrays):
        return NotImplemented
    first = dense(xp, arrays[0])
    aligned = [first, *(alike(xp, x, first) for x in arrays[1:])]
    y = empty_alike(xp, first, first.dtype)
    if y.size:
        width = vector_width(y.size, y, *aligned)
        vectors = y.size // width
        kernel = engine.load(xp, "linear_combination.cu", f"linear_combination<{type_of(y)}, {width}>")
        kernel((-(-vectors // _THREADS),), (_THREADS,), (y, _terms(aligned, coefficients), np.int64(vectors)))
    return y, lambda dy: [partial(scaled, xp, dy, float(c)) for c in coefficients]


def _terms(arrays: list[Array], coefficients: Sequence[float]) -> Any:
    terms = np.zeros((), _TERMS)
    terms["count"], terms["factor"] = len(arrays), np.nan  # a term past the last would spoil the sum
    for i, (x, c) in enumerate(zip(arrays, coefficients, strict=True)):
        terms["array"][i], terms["factor"][i] = address(x), c
    return terms[()]
