"""`ops.linear_combination`, what a sampler's update is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff import Parameter, backward, ops, record
from minidiff.backend import Backend
from minidiff.ops.support import dtype_name


def arrays(backend: Backend, *values: list[float], dtype: str = "float32") -> list[Any]:
    return [backend.from_numpy(np.asarray(v).astype(dtype)) for v in values]


def test_it_is_the_weighted_sum(backend: Backend) -> None:
    given = arrays(backend, [1, 2], [30, 40], [500, 600])
    y = ops.linear_combination(given, coefficients=(2, -0.5, 0.25))
    np.testing.assert_array_equal(backend.to_numpy(y), [112, 134])
    assert dtype_name(y.dtype) == "float32"


def test_one_array_is_scaled(backend: Backend) -> None:
    y = ops.linear_combination(arrays(backend, [1, 2]), coefficients=[3.0])
    np.testing.assert_array_equal(backend.to_numpy(y), [3, 6])


def test_any_number_of_arrays(backend: Backend) -> None:
    given = arrays(backend, *([float(2**i)] for i in range(20)))
    y = ops.linear_combination(given, coefficients=[1.0] * 20)
    np.testing.assert_array_equal(backend.to_numpy(y), [2**20 - 1])


def test_the_sum_is_in_the_order_given(backend: Backend) -> None:
    large, small = arrays(backend, [2.0**24], [1.0])  # in float32 2**24 + 1 is 2**24
    one_after_the_other = ops.linear_combination([large, small, small], coefficients=(1.0, 1.0, 1.0))
    small_first = ops.linear_combination([small, small, large], coefficients=(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(backend.to_numpy(one_after_the_other), [2**24])
    np.testing.assert_array_equal(backend.to_numpy(small_first), [2**24 + 2])


def test_float16_is_summed_in_float32(backend: Backend) -> None:
    if not hasattr(backend.xp, "float16"):
        pytest.skip(f"{backend.device} has no float16")
    given = arrays(backend, [60000], [60000], [60000], dtype="float16")
    y = ops.linear_combination(given, coefficients=(1.0, 1.0, -1.0))
    np.testing.assert_array_equal(backend.to_numpy(y), [60000])  # the first two add up to infinity in float16
    assert dtype_name(y.dtype) == "float16"


def test_a_numpy_scalar_among_the_coefficients_does_not_promote(backend: Backend) -> None:
    (x,) = arrays(backend, [1.0])
    assert dtype_name(ops.linear_combination([x], coefficients=[np.float64(0.1)]).dtype) == "float32"
    assert dtype_name(ops.linear_combination([x], coefficients=np.ones(1)).dtype) == "float32"


def test_each_gradient_is_the_coefficient_times_that_of_the_sum(backend: Backend) -> None:
    a, b = map(Parameter, arrays(backend, [1, 2], [3, 4]))
    (constant,) = arrays(backend, [5, 6])
    with record():
        loss = ops.sum(ops.square(ops.linear_combination([a, constant, b], coefficients=(2.0, 1.0, -1.0))))
    grads = backward(loss)
    np.testing.assert_array_equal(backend.to_numpy(grads.wrt(a)), [2 * 2 * 4, 2 * 2 * 6])  # sums are 4 and 6
    np.testing.assert_array_equal(backend.to_numpy(grads.wrt(b)), [-2 * 4, -2 * 6])


@pytest.mark.parametrize(
    ("shapes", "dtypes", "coefficients", "kind", "message"),
    [
        ([(2,), (3,)], "float32", (1.0, 1.0), ValueError, r"arrays\[1\] has shape \(3,\), expected \(2,\)"),
        ([(2,), (1,)], "float32", (1.0, 1.0), ValueError, r"arrays\[1\] has shape \(1,\), expected \(2,\)"),
        ([(2,), (2,)], "float32", (1.0,), ValueError, "2 arrays but 1 coefficients"),
        ([(2,), (2,)], ["float32", "float64"], (1.0, 1.0), TypeError, r"arrays\[1\] is float64\); cast with"),
        ([(2,)], "int64", (1.0,), TypeError, r"arrays\[0\] is int64; convert it"),
        ([(2,)], "float32", ("1",), TypeError, r"coefficients\[0\] must be a Python float, got a str"),
        ([], "float32", (), TypeError, "expected at least one array"),
    ],
)
def test_errors_name_the_numbers(
    backend: Backend, shapes: Any, dtypes: Any, coefficients: Any, kind: type[Exception], message: str
) -> None:
    dtypes = [dtypes] * len(shapes) if isinstance(dtypes, str) else dtypes
    given = [backend.from_numpy(np.ones(s, d)) for s, d in zip(shapes, dtypes, strict=True)]
    with pytest.raises(kind, match=message):
        ops.linear_combination(given, coefficients=coefficients)


def test_a_tensor_is_no_coefficient(backend: Backend) -> None:
    (x,) = arrays(backend, [1.0, 2.0])
    with pytest.raises(TypeError, match=r"coefficients\[0\] must be a Python float, got a Parameter"):
        ops.linear_combination([x], coefficients=[Parameter(x)])
