"""Activations and softmax on the NumPy backend against generic rules and closed forms, in blocks small and large."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from array_api_compat import numpy as xp
from kernel_comparison import KERNELS, compare, laid_out, run, sharing  # noqa: F401

from minidiff_numpy import blocks, elementwise

pytestmark = pytest.mark.usefixtures("sharing")

ACTIVATIONS = [("silu", {}), ("gelu", {"approximate": None}), ("gelu", {"approximate": "tanh"})]
ORDERS = ["C", "NHWC", "every second"]


@pytest.fixture(autouse=True)
def arrays_of_a_test_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "_LARGE", 1)
    monkeypatch.setattr(blocks, "BLOCK", 50)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [(*case, "float32") for case in ACTIVATIONS]
    + [("silu", {}, "float64"), ("gelu", {"approximate": "tanh"}, "float64")],
    ids=str,
)
def test_activations(name: str, options: dict[str, Any], dtype: str, order: str) -> None:
    rng = np.random.default_rng(0)
    for shape in [(2, 5, 7, 3), (4, 1, 1, 1), (1, 3, 1, 9)]:
        x = laid_out(rng, shape, dtype, order)
        y, dx = compare(name, x, **options)
        if order == "NHWC":
            assert y.transpose(0, 2, 3, 1).flags.c_contiguous
            assert dx.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
def test_activations_far_out(name: str, options: dict[str, Any]) -> None:
    """Where exponentials overflow: 0 or x, with slope 0 or 1."""
    x = np.asarray([-1e30, -1e4, -100, -40, 40, 100, 1e4, 1e30], np.float32)
    y, vjp = run(KERNELS[name], name, (x,), options)
    np.testing.assert_array_equal(np.abs(y), np.where(x > 0, x, 0).astype(np.float32))
    np.testing.assert_array_equal(np.abs(vjp(np.ones_like(x))[0]), x > 0)


def test_gelu_is_x_by_the_normal_distribution() -> None:
    x = np.linspace(-12, 12, 24001, dtype=np.float32)
    y, _ = run(KERNELS["gelu"], "gelu", (x,), {"approximate": None})
    exact = [v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.tolist()]
    assert np.abs(y - exact).max() < 3e-7 * 12
    assert np.abs(y - exact)[np.abs(x) < 1].max() < 2e-7


@pytest.mark.parametrize("shift", [0, 15, -1000, 1e8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axis", "order"), [((4, 6, 31), -1, "C"), ((3, 7, 2, 9), 1, "NHWC"), ((80,), 0, "C")]
)
def test_softmax(shape: tuple[int, ...], axis: int, order: str, dtype: str, shift: float) -> None:
    rng = np.random.default_rng(1)
    x = laid_out(rng, shape, dtype, order)
    x *= 10
    x += np.asarray(shift, dtype)
    y, _ = compare("softmax", x, axis=axis)
    np.testing.assert_allclose(y.sum(axis=axis), 1, rtol=1e-6)


def test_what_is_left_to_the_rules() -> None:
    x = np.ones((4, 6), np.float16)
    for name, options in [*ACTIVATIONS, ("softmax", {"axis": -1})]:
        assert run(KERNELS[name], name, (x,), options) is NotImplemented
    single = x.astype(np.float32)
    assert run(KERNELS["softmax"], "softmax", (single,), {"axis": 0}) is NotImplemented
    double = (x.astype(np.float64),)
    assert run(KERNELS["gelu"], "gelu", double, {"approximate": None}) is NotImplemented


@pytest.mark.parametrize(("name", "options"), [*ACTIVATIONS, ("softmax", {"axis": -1})], ids=str)
def test_small_arrays_are_left_to_the_rule(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elementwise, "_LARGE", 1 << 19)
    x = np.ones((4, 6), np.float32)
    served = KERNELS[name](xp, x, **options) is not NotImplemented
    assert served == (options == {"approximate": None})
