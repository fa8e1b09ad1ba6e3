"""CuPy as the Array API has it, with matrix products that say what they lack."""

from __future__ import annotations

import functools
import types
from typing import Any

from minidiff_cupy.diagnosis import no_cublas

__all__ = ["namespace"]


@functools.cache
def namespace(xp: Any) -> Any:
    """`xp`, with a `matmul` that says how to install cuBLAS where it is missing.

    No other function that generic rules call needs cuBLAS. The extras for CUDA leave it out, because networks in
    float32, float16 and bfloat16 do without.
    """

    def matmul(x1: Any, x2: Any, /) -> Any:
        try:
            return xp.matmul(x1, x2)
        except ImportError as error:  # CuPy loads cuBLAS when it is first called
            raise no_cublas() from error

    ours = types.ModuleType(xp.__name__, xp.__doc__)
    vars(ours).update({**vars(xp), "matmul": matmul})
    return ours
