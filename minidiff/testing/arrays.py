"""Arrays for checks: laid out in memory as asked, locked against writing, compared with numbers in the message."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.autodiff import op
from minidiff.backend import Array, Backend
from minidiff.ops import isdtype
from minidiff.ops.support import find_dtype
from minidiff.testing.case import Host

__all__ = ["error", "has_dtype", "is_floating", "lay", "require", "to_host", "weigh"]


@op
def weigh(xp: Any, y: Any, weights: Any, /) -> Any:
    """Sum of y * weights. Its gradient is `weights` itself, so that a pullback that writes to it is found out."""
    return xp.sum(y * weights), lambda dy: (weights,)


def require(condition: object, message: str) -> None:
    """Raise AssertionError with `message` unless `condition` holds."""
    if not condition:
        raise AssertionError(message)


def error(actual: Host, expected: Host) -> float:
    """The largest difference relative to max(1, |expected|); infinite where one of them is not a number."""
    difference = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    return float(np.max(np.where(np.isnan(difference), np.inf, difference), initial=0.0))


def has_dtype(backend: Backend, name: str) -> bool:
    """Whether a library has a dtype; NumPy and CuPy have bfloat16 by `ml_dtypes`."""
    by_ml_dtypes = name == "bfloat16" and backend.device.partition(":")[0] in ("cpu", "cuda")
    return hasattr(backend.xp, name) or by_ml_dtypes


def is_floating(backend: Backend, x: Any) -> bool:
    """Whether `x` is an array of floating numbers on `backend`."""
    return isinstance(x, backend.array_type) and isdtype(x.dtype, "real floating")  # type: ignore[attr-defined]


def to_host(backend: Backend, x: Any) -> Any:
    """A copy of an array in NumPy, float64 where it is floating; anything else as it is."""
    if not isinstance(x, backend.array_type):
        return x
    wide = backend.xp.astype(x, backend.xp.float64) if is_floating(backend, x) else x
    return np.array(backend.to_numpy(wide))


def lay(backend: Backend, host: Host, dtype: str, layout: str) -> Array:
    """An array on `backend` with the memory layout of a `Case`.

    Floating numbers are rounded to float32, so that they are the same in float64, and have
    the dtype that is named; NumPy arrays are locked against writing.
    """
    xp = backend.xp
    if host.dtype == np.float64:
        host = host.astype(np.float32)

    def bring(part: Host) -> Array:
        x = backend.from_numpy(np.array(part, order="C"))
        return xp.astype(x, find_dtype(xp, dtype)) if is_floating(backend, x) else x

    if layout == "transposed":
        x = xp.permute_dims(bring(host.T), tuple(reversed(range(host.ndim))))
    elif layout == "strided" and host.ndim:
        x = bring(np.repeat(host, 2, axis=-1))[..., ::2]
    elif layout == "channels last" and host.ndim > 2:
        x = xp.moveaxis(bring(np.moveaxis(host, 1, -1)), -1, 1)
    else:
        x = bring(host)
    if isinstance(x, np.ndarray):
        x.flags.writeable = False
    return x
