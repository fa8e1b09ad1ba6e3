"""Arrays that behave like CuPy's where NumPy's would be kinder: they do not mix with host arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["SimtArray", "unwrap", "wrap"]


class SimtArray(np.ndarray[Any, Any]):
    """An array of the emulated device.

    As with CuPy, an operation that also gets an array of NumPy fails, reductions and items are arrays of shape (),
    and what NumPy's functions make of such arrays are such arrays.
    """

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute on the host and wrap what comes out."""
        out = options.pop("out", None)
        if out is not None:
            options["out"] = tuple(unwrap(x) for x in out)
        result = getattr(ufunc, method)(*unwrap(inputs), **options)
        if out is None:
            return wrap(result)
        return out[0] if len(out) == 1 else out

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        """The same for functions that are no ufuncs."""
        return wrap(function(*unwrap(inputs), **unwrap(options)))

    def __getitem__(self, key: Any) -> Any:
        return wrap(self.view(np.ndarray)[unwrap(key)])

    def __repr__(self) -> str:
        return repr(self.view(np.ndarray))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.view(np.ndarray)[unwrap(key)] = unwrap(value)


def unwrap(x: Any) -> Any:
    """The NumPy array inside, also in tuples, lists and dicts.

    Raises
    ------
    TypeError
        If one of them is an array of NumPy itself.
    """
    if isinstance(x, SimtArray):
        return x.view(np.ndarray)
    if isinstance(x, np.ndarray):
        raise TypeError(
            "Unsupported type <class 'numpy.ndarray'>: this operation is for arrays of the device"
        )
    if type(x) in (tuple, list):
        return type(x)(map(unwrap, x))
    if type(x) is dict:
        return {key: unwrap(value) for key, value in x.items()}
    return x


def wrap(x: Any) -> Any:
    """What NumPy returned, with its arrays and array scalars as arrays of the device."""
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x).view(SimtArray)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(wrap, x))
    if type(x) in (tuple, list):
        return type(x)(map(wrap, x))
    return x
