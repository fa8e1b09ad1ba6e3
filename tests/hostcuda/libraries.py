"""What CuPy calls of NVIDIA's libraries in compiled form, done by NumPy: cuBLAS and Thrust."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["replace"]


def replace(cupy: Any) -> None:
    """Let products of matrices and sorting be NumPy's."""
    for name in ("matmul", "tensordot", "sort", "argsort"):
        setattr(cupy, name, _by_numpy(cupy, getattr(np, name)))
    product = cupy.matmul
    cupy.ndarray.__matmul__ = lambda x, y: product(x, y) if isinstance(y, cupy.ndarray) else NotImplemented


def _by_numpy(cupy: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def on_device(*arguments: Any, **options: Any) -> Any:
        given = [cupy.asnumpy(x) if isinstance(x, cupy.ndarray) else x for x in arguments]
        return cupy.asarray(function(*given, **options))

    return on_device
