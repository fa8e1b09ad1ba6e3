"""CuPy as the Array API has it, where it falls short of that, waits for the GPU, or lacks a library."""

from __future__ import annotations

import functools
import types
from typing import Any

from minidiff_cupy.diagnosis import no_cublas

__all__ = ["namespace"]

_WIDENED = ("round", "tril", "triu", "where")  # of bfloat16, which CuPy makes float32


@functools.cache
def namespace(xp: Any) -> Any:
    """`xp`, with some functions of our own.

    - `matmul` says how to install cuBLAS where it is missing. The extras for CUDA leave it out, because networks in
      float32, float16 and bfloat16 do without.
    - `clip` queues two kernels. That of array_api_compat selects by boolean masks, for which CuPy waits for the GPU,
      so that it could not be captured either.
    - `where` and a few others keep bfloat16.
    """

    def matmul(x1: Any, x2: Any, /) -> Any:
        try:
            return xp.matmul(x1, x2)
        except ImportError as error:  # CuPy loads cuBLAS when it is first called
            raise no_cublas() from error

    def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
        if x.dtype.kind in "iu":  # limits may be beyond the dtype
            return xp.clip(x, min, max)
        y = x if min is None else xp.maximum(x, min)
        y = y if max is None else xp.minimum(y, max)
        return xp.astype(y, x.dtype, copy=y is x)

    keeping = {name: functools.partial(_keeping, xp, name) for name in _WIDENED}
    ours = types.ModuleType(xp.__name__, xp.__doc__)
    vars(ours).update({**vars(xp), **keeping, "clip": clip, "matmul": matmul})
    return ours


def _keeping(xp: Any, name: str, *arguments: Any, **options: Any) -> Any:
    """A function of `xp`, bfloat16 if all numbers that it gets are."""
    result = getattr(xp, name)(*arguments, **options)
    numbers = {x.dtype for x in arguments if hasattr(x, "dtype") and x.dtype != bool}
    if {dtype.name for dtype in numbers} == {"bfloat16"}:
        return xp.astype(result, numbers.pop(), copy=False)
    return result
