"""Adding and joining large arrays on the NumPy backend against the generic rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_comparison import KERNELS, compare, laid_out, run, sharing  # noqa: F401

from minidiff import Parameter, ops, value_and_grad
from minidiff.backend import get_backend
from minidiff.testing.conformance import serving
from minidiff_numpy import blocks, joining

pytestmark = pytest.mark.usefixtures("sharing")
ORDERS = ["C", "NHWC", "every second"]


@pytest.fixture(autouse=True)
def arrays_of_a_test_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_LARGE", 1)
    monkeypatch.setattr(blocks, "BLOCK", 50)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("second", ORDERS)
@pytest.mark.parametrize("first", ORDERS)
def test_add(first: str, second: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    for shape in [(3, 5, 7, 2), (1, 5, 7, 2), (1, 1, 1, 6)]:
        x = laid_out(rng, shape, dtype, first)
        y, _ = compare("add", x, laid_out(rng, shape, dtype, second))
        if first == "NHWC":
            assert y.transpose(0, 2, 3, 1).flags.c_contiguous
        compare("add", x, laid_out(rng, (*shape[:2], 1, 1), dtype, second))
    for shape in [(13,), (3, 8), (1, 4, 5)]:
        compare("add", rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
@pytest.mark.parametrize("second", ORDERS)
@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("axis", [0, 1, 3, -1, -3])
def test_concat(axis: int, first: str, second: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    shapes = [[2, 4, 3, 5], [2, 4, 3, 5], [2, 4, 3, 5], [2, 4, 3, 5]]
    for shape, length in zip(shapes, (3, 1, 0, 4), strict=True):
        shape[axis] = length
    arrays = [
        (10 * laid_out(rng, tuple(s), "float64", order)).astype(dtype)
        for s, order in zip(shapes, (first, second, first, second), strict=True)
    ]
    y, vjp = KERNELS["concat"](None, *arrays, axis=axis)
    expected = np.concatenate(arrays, axis=axis)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)
    if first == second == "NHWC":
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    for part, a in zip(vjp(y), arrays, strict=True):
        np.testing.assert_array_equal(part, a)


def test_what_is_left_to_the_rules() -> None:
    x = np.ones((2, 3, 4, 5), np.float32)
    for y in (1.5, x[0], x[:1], x[:, :, :1], x.astype(np.float64), x.astype(np.float16)):
        assert run(KERNELS["add"], "add", (x, y), {}) is NotImplemented
    assert run(KERNELS["add"], "add", (2, x), {}) is NotImplemented
    assert run(KERNELS["add"], "add", (x[:, :, :1, :1], x), {}) is NotImplemented
    assert KERNELS["concat"](None, x, x.astype(np.float64), axis=0) is NotImplemented


def test_gradients_that_meet_are_added_by_the_kernel() -> None:
    """What is used three times gets three gradients."""
    cpu, met = get_backend("cpu"), []

    def add(xp: Any, x1: Any, x2: Any) -> Any:
        met.append(x1.shape)
        return joining.add(xp, x1, x2)

    x = Parameter(laid_out(np.random.default_rng(2), (2, 8, 6, 6), "float32", "NHWC"))
    with serving(cpu, {"add": add}):
        _, grads = value_and_grad(lambda: ops.sum(x * x + x), {"x": x})()
    assert met == [x.shape] * 3  # one of the way forward
    np.testing.assert_allclose(grads["x"], 2 * x.data + 1, rtol=1e-6, atol=1e-6)
