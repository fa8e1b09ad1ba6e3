"""The Array API namespace of the emulated device: array_api_compat's of NumPy, wrapped."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
from array_api_compat import numpy as host

from tests.simt.arrays import SimtArray, unwrap, wrap

bfloat16 = np.dtype(ml_dtypes.bfloat16)
ndarray = SimtArray


def asarray(obj: Any, /, **options: Any) -> Any:
    """As the standard has it; unlike other functions it takes arrays of the host, as CuPy's does."""
    return wrap(host.asarray(obj.view(np.ndarray) if isinstance(obj, SimtArray) else obj, **options))


def empty(shape: Any, **options: Any) -> Any:
    """Poisoned, so that an element that no kernel writes is found: every byte is 0xFF, which is not a number."""
    return wrap(_poisoned(host.empty(shape, **options)))


def empty_like(x: Any, /, **options: Any) -> Any:
    """As `empty`."""
    return wrap(_poisoned(host.empty_like(unwrap(x), **options)))


def _poisoned(x: Any) -> Any:
    if x.dtype.kind in "fViu":  # "V" is bfloat16; a bool has no such value
        x.view(np.uint8 if x.ndim else f"V{x.itemsize}")[...] = 255 if x.ndim else b"\xff" * x.itemsize
    return x


def __getattr__(name: str) -> Any:
    value = getattr(host, name)
    if isinstance(value, type) or not callable(value):
        return value

    @functools.wraps(value)
    def on_device(*arguments: Any, **options: Any) -> Any:
        return wrap(value(*unwrap(arguments), **unwrap(options)))

    globals()[name] = on_device  # found without this function the next time
    return on_device


def __dir__() -> list[str]:
    return sorted({*dir(host), *globals()})
