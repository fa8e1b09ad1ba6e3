"""Functions without a gradient: comparisons, logic, rounding, searching, and what the standard says of dtypes.

Each takes arrays and tensors and returns plain arrays, by the array library's own function of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidiff.autodiff import stop_gradient
from minidiff.backend import backend_of, get_backend, is_array
from minidiff.ops.support import dtype_name, find_dtype

NAMES = (
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
    "logical_and", "logical_or", "logical_xor", "logical_not",
    "isfinite", "isinf", "isnan", "signbit",
    "sign", "floor", "ceil", "round", "trunc", "floor_divide", "remainder",
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift",
    "all", "any", "argmax", "argmin", "argsort", "count_nonzero", "nonzero", "searchsorted",
)  # fmt: skip


def _constant(name: str) -> Callable[..., Any]:
    def function(*args: Any, **options: Any) -> Any:
        plain = [stop_gradient(a) for a in args]
        arrays = [a for a in plain if is_array(a)]
        if not arrays:
            raise TypeError(f"{name}: expected at least one array, got {args!r}")
        return getattr(backend_of(arrays[0]).xp, name)(*plain, **options)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{name}` of the Array API standard; its result is a constant."
    return function


FUNCTIONS = {name: _constant(name) for name in NAMES}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype of any library is of a kind such as "real floating", as in the standard."""
    xp, name = get_backend("cpu").xp, dtype_name(dtype)
    stand_in = "float16" if name == "bfloat16" else name  # which NumPy itself does not know
    return bool(xp.isdtype(find_dtype(xp, stand_in), kind))


def finfo(dtype: Any, /) -> Any:
    """Limits of a floating dtype, given by a dtype of any library, by name, or by an array."""
    import ml_dtypes

    return ml_dtypes.finfo(_numpy_dtype(dtype))


def iinfo(dtype: Any, /) -> Any:
    """Limits of an integer dtype, given by a dtype of any library, by name, or by an array."""
    return get_backend("cpu").xp.iinfo(_numpy_dtype(dtype))


def _numpy_dtype(dtype: Any) -> Any:
    return find_dtype(get_backend("cpu").xp, dtype.dtype if is_array(dtype) else dtype)


def result_type(*arrays_and_dtypes: Any) -> Any:
    """The dtype that combining these gives."""
    plain = [stop_gradient(a) for a in arrays_and_dtypes]
    arrays = [a for a in plain if is_array(a)]
    xp = (backend_of(arrays[0]) if arrays else get_backend("cpu")).xp
    return xp.result_type(*(a if is_array(a) else find_dtype(xp, a) for a in plain))
