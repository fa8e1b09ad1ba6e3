"""Element-wise operations with a gradient, and the operators of `Tensor`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from numbers import Real
from operator import mul
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.support import (
    as_array,
    check_floating,
    check_shape,
    find_dtype,
    narrow,
    shape_of,
    sum_to,
    widen,
)


def _result(xp: Any, y: Any, x1: Any, x2: Any) -> Any:
    """`y`, computed from two operands, in the array's dtype if the other one is a Python number.

    By the standard it has that already, but `ml_dtypes` lets a number turn bfloat16 into float32.
    """
    if not hasattr(x2, "dtype"):
        return narrow(xp, y, x1)
    return y if hasattr(x1, "dtype") else narrow(xp, y, x2)


@op
def add(xp: Any, x1: Any, x2: Any, /) -> Any:
    """x1 + x2, broadcast."""
    s1, s2 = shape_of(x1), shape_of(x2)
    y = _result(xp, x1 + x2, x1, x2)
    return y, lambda dy: (lambda: sum_to(xp, dy, s1), lambda: sum_to(xp, dy, s2))


@op
def subtract(xp: Any, x1: Any, x2: Any, /) -> Any:
    """x1 - x2, broadcast."""
    s1, s2 = shape_of(x1), shape_of(x2)
    y = _result(xp, x1 - x2, x1, x2)
    return y, lambda dy: (lambda: sum_to(xp, dy, s1), lambda: sum_to(xp, -dy, s2))


@op
def multiply(xp: Any, x1: Any, x2: Any, /) -> Any:
    """x1 * x2, broadcast."""
    s1, s2 = shape_of(x1), shape_of(x2)
    y = _result(xp, x1 * x2, x1, x2)
    if not hasattr(x2, "dtype"):  # a number: there is no array worth remembering
        return y, lambda dy: (dy * x2,)
    if not hasattr(x1, "dtype"):
        return y, lambda dy: (None, dy * x1)
    return y, lambda dy: (lambda: sum_to(xp, dy * x2, s1), lambda: sum_to(xp, dy * x1, s2))


@op
def divide(xp: Any, x1: Any, x2: Any, /) -> Any:
    """x1 / x2, broadcast."""
    s1, s2 = shape_of(x1), shape_of(x2)
    y = _result(xp, x1 / x2, x1, x2)
    if not hasattr(x2, "dtype"):
        return y, lambda dy: (dy / x2,)
    return y, lambda dy: (lambda: sum_to(xp, dy / x2, s1), lambda: sum_to(xp, -dy * y / x2, s2))


def check_linear_combination(*arrays: Array, coefficients: Sequence[float]) -> None:
    """The errors of `linear_combination`."""
    name = "linear_combination"
    if len(arrays) != len(coefficients):
        raise ValueError(f"{name}: {len(arrays)} arrays but {len(coefficients)} coefficients")
    for i, c in enumerate(coefficients):
        if not isinstance(c, Real):
            raise TypeError(f"{name}: coefficients[{i}] must be a Python float, got a {type(c).__name__}")
    check_floating(name, **{f"arrays[{i}]": x for i, x in enumerate(arrays)})
    for i, x in enumerate(arrays):
        check_shape(name, f"arrays[{i}]", x, tuple(arrays[0].shape), "like arrays[0]")


@op(check=check_linear_combination)
def linear_combination(xp: Any, *arrays: Any, coefficients: Sequence[float]) -> Any:
    """The sum of coefficients[i] * arrays[i]: what a sampler makes of images and noise.

    Parameters
    ----------
    arrays : sequence of array, of one shape and floating dtype
        One or more. They are added up in this order; float16 and bfloat16 in float32.
    coefficients : sequence of float
        As many.

    Raises
    ------
    TypeError
        If dtypes differ or are not floating, or a coefficient is not a number.
    ValueError
        If shapes or counts differ.

    Examples
    --------
    >>> import numpy as np
    >>> linear_combination([np.ones(2), np.arange(2.0)], coefficients=(0.5, 3))
    array([0.5, 3.5])
    """
    factors = [float(c) for c in coefficients]  # a float64 of NumPy would promote
    y = widen(xp, arrays[0]) * factors[0]
    for x, c in zip(arrays[1:], factors[1:], strict=True):
        y = y + widen(xp, x) * c
    return narrow(xp, y, arrays[0]), lambda dy: [partial(mul, dy, c) for c in factors]


@op
def pow(xp: Any, x1: Any, x2: Any, /) -> Any:
    """x1 to the power x2, broadcast."""

    def dx1(dy: Any) -> Any:
        nonzero = xp.where(x2 == 0, 2 * xp.ones_like(x2), x2) if hasattr(x2, "dtype") else x2 or 2
        return sum_to(xp, dy * x2 * x1 ** (nonzero - 1), shape_of(x1))  # x**0 has slope 0, at 0 too

    def dx2(dy: Any) -> Any:
        base = as_array(xp, x1, x2)
        log = xp.log(xp.where(base > 0, base, xp.ones_like(base)))  # d/dx2 of 0**x2 is taken as 0
        return sum_to(xp, dy * x1**x2 * log, shape_of(x2))

    return _result(xp, x1**x2, x1, x2), lambda dy: (lambda: dx1(dy), lambda: dx2(dy))


@op
def negative(xp: Any, x: Any, /) -> Any:
    """-x."""
    return -x, lambda dy: (-dy,)


@op
def abs(xp: Any, x: Any, /) -> Any:
    """Absolute value; its gradient at 0 is 0."""
    return xp.abs(x), lambda dy: (dy * xp.sign(x),)


@op
def square(xp: Any, x: Any, /) -> Any:
    """The square, x * x."""
    return xp.square(x), lambda dy: (dy * 2 * x,)


@op
def sqrt(xp: Any, x: Any, /) -> Any:
    """Square root."""
    y = xp.sqrt(x)
    return y, lambda dy: (dy / (2 * y),)


@op
def reciprocal(xp: Any, x: Any, /) -> Any:
    """1 / x."""
    y = narrow(xp, 1 / x, x)  # NumPy 2.0 makes float32 of a bfloat16 there
    return y, lambda dy: (-dy * y * y,)


@op
def exp(xp: Any, x: Any, /) -> Any:
    """The exponential function, e to the power x."""
    y = xp.exp(x)
    return y, lambda dy: (dy * y,)


@op
def expm1(xp: Any, x: Any, /) -> Any:
    """The exponential function minus 1, exact near 0."""
    y = xp.expm1(x)
    return y, lambda dy: (dy * (y + 1),)


@op
def log(xp: Any, x: Any, /) -> Any:
    """Natural logarithm."""
    return xp.log(x), lambda dy: (dy / x,)


@op
def log1p(xp: Any, x: Any, /) -> Any:
    """Natural logarithm of 1 + x."""
    return xp.log1p(x), lambda dy: (dy / (1 + x),)


@op
def log2(xp: Any, x: Any, /) -> Any:
    """Logarithm to base 2."""
    return xp.log2(x), lambda dy: (dy / (x * math.log(2)),)


@op
def log10(xp: Any, x: Any, /) -> Any:
    """Logarithm to base 10."""
    return xp.log10(x), lambda dy: (dy / (x * math.log(10)),)


@op
def logaddexp(xp: Any, x1: Any, x2: Any, /) -> Any:
    """log(exp(x1) + exp(x2)) without overflow, broadcast."""
    a, b = _both_arrays(xp, x1, x2)
    y = xp.logaddexp(a, b)
    return y, lambda dy: (
        lambda: sum_to(xp, dy * xp.exp(a - y), shape_of(x1)),
        lambda: sum_to(xp, dy * xp.exp(b - y), shape_of(x2)),
    )


@op
def sin(xp: Any, x: Any, /) -> Any:
    """Sine of x, in radians."""
    return xp.sin(x), lambda dy: (dy * xp.cos(x),)


@op
def cos(xp: Any, x: Any, /) -> Any:
    """Cosine of x, in radians."""
    return xp.cos(x), lambda dy: (-dy * xp.sin(x),)


@op
def tan(xp: Any, x: Any, /) -> Any:
    """Tangent of x, in radians."""
    y = xp.tan(x)
    return y, lambda dy: (dy * (1 + y * y),)


@op
def sinh(xp: Any, x: Any, /) -> Any:
    """Hyperbolic sine."""
    return xp.sinh(x), lambda dy: (dy * xp.cosh(x),)


@op
def cosh(xp: Any, x: Any, /) -> Any:
    """Hyperbolic cosine."""
    return xp.cosh(x), lambda dy: (dy * xp.sinh(x),)


@op
def tanh(xp: Any, x: Any, /) -> Any:
    """Hyperbolic tangent."""
    y = xp.tanh(x)
    return y, lambda dy: (dy * (1 - y * y),)


@op
def asin(xp: Any, x: Any, /) -> Any:
    """Inverse sine, in radians."""
    return xp.asin(x), lambda dy: (dy / xp.sqrt(1 - x * x),)


@op
def acos(xp: Any, x: Any, /) -> Any:
    """Inverse cosine, in radians."""
    return xp.acos(x), lambda dy: (-dy / xp.sqrt(1 - x * x),)


@op
def atan(xp: Any, x: Any, /) -> Any:
    """Inverse tangent, in radians."""
    return xp.atan(x), lambda dy: (dy / (1 + x * x),)


@op
def atan2(xp: Any, x1: Any, x2: Any, /) -> Any:
    """The angle of the point (x2, x1), in radians, broadcast."""
    a, b = _both_arrays(xp, x1, x2)
    r2 = a * a + b * b
    return xp.atan2(a, b), lambda dy: (
        lambda: sum_to(xp, dy * b / r2, shape_of(x1)),
        lambda: sum_to(xp, -dy * a / r2, shape_of(x2)),
    )


@op
def maximum(xp: Any, x1: Any, x2: Any, /) -> Any:
    """The greater of x1 and x2, broadcast; where they are equal each gets half of the gradient."""
    return _choose(xp, xp.maximum, x1, x2)


@op
def minimum(xp: Any, x1: Any, x2: Any, /) -> Any:
    """The smaller of x1 and x2, broadcast; where they are equal each gets half of the gradient."""
    return _choose(xp, xp.minimum, x1, x2)


def _choose(xp: Any, choose: Any, x1: Any, x2: Any) -> Any:
    a, b = _both_arrays(xp, x1, x2)
    y = choose(a, b)

    def share(dy: Any, x: Any) -> Any:
        """`dy` where x was chosen, half of it where both were, else 0."""
        return dy * xp.astype(x == y, dy.dtype) * (1 - 0.5 * xp.astype(a == b, dy.dtype))

    return y, lambda dy: (
        lambda: sum_to(xp, share(dy, a), shape_of(x1)),
        lambda: sum_to(xp, share(dy, b), shape_of(x2)),
    )


def _both_arrays(xp: Any, x1: Any, x2: Any) -> tuple[Any, Any]:
    """A Python number among the two as an array of the other's dtype."""
    like = x1 if hasattr(x1, "dtype") else x2
    if not hasattr(like, "dtype"):
        raise TypeError(f"expected at least one array to choose from, got {x1!r} and {x2!r}")
    return as_array(xp, x1, like), as_array(xp, x2, like)


@op
def clip(xp: Any, x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Limit x to [min, max]; no gradient outside. The limits are Python numbers, constant arrays or None."""
    y = x
    if min is not None:
        y = xp.maximum(y, as_array(xp, min, x))
    if max is not None:
        y = xp.minimum(y, as_array(xp, max, x))
    return y, lambda dy: (sum_to(xp, xp.where(x == y, dy, xp.zeros_like(dy)), shape_of(x)),)


@op
def where(xp: Any, condition: Any, x1: Any, x2: Any, /) -> Any:
    """x1 where `condition` holds, x2 elsewhere, broadcast."""
    a, b = _both_arrays(xp, x1, x2)
    s1, s2 = shape_of(a), shape_of(b)

    def side(dy: Any, shape: tuple[int, ...], chosen: Any) -> Any:
        return sum_to(xp, xp.where(chosen, dy, xp.zeros_like(dy)), shape)

    return xp.where(condition, a, b), lambda dy: (
        None,
        lambda: side(dy, s1, condition),
        lambda: side(dy, s2, xp.logical_not(condition)),
    )


@op
def astype(xp: Any, x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
    """Convert x to another dtype, given as an object of any library or by name; its gradient has the dtype of x."""
    return xp.astype(x, find_dtype(xp, dtype), copy=copy), lambda dy: (dy,)
