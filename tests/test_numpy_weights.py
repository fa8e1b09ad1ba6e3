"""Weights kept in a kernel's form: never stale, never more than allowed, gone with the weights."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from kernel_comparison import Array

from minidiff import ops
from minidiff_numpy import set_weight_cache, weights
from minidiff_numpy.weights import kept


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    set_weight_cache(1 << 30)
    yield
    set_weight_cache(1 << 30)


def counted() -> tuple[list[int], Callable[[Array], Array]]:
    calls: list[int] = []

    def double(w: Array) -> Array:
        calls.append(1)
        return 2 * w

    return calls, double


def test_made_at_the_first_two_uses_and_kept_from_then_on() -> None:
    calls, double = counted()
    w = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    made = [kept(w, "double", double) for _ in range(5)]
    assert len(calls) == 2
    for m in made:
        np.testing.assert_array_equal(m, 2 * w)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_a_written_weight_is_noticed(dtype: str, order: str) -> None:
    _, double = counted()
    w = np.zeros((60, 100, 9), dtype)[:, ::2] if order == "strided" else np.zeros((60, 50, 9), dtype, order)  # type: ignore[call-overload]
    for i, place in enumerate([(0, 0, 0), (59, 49, 8), (31, 7, 4), (0, 0, 0)]):
        w[place] += 1e-30 if i % 2 else 1
        for _ in range(3):
            np.testing.assert_array_equal(kept(w, "double", double), 2 * w)
    w[[3, 5]] = w[[5, 3]]
    w[0, 0, 0], w[59, 49, 8] = w[59, 49, 8], w[0, 0, 0]
    np.testing.assert_array_equal(kept(w, "double", double), 2 * w)


def test_a_negative_zero_and_nan_do_not_confuse() -> None:
    calls, double = counted()
    w = np.full(8, np.nan, np.float32)
    for _ in range(5):
        kept(w, "double", double)
    assert len(calls) == 2


def test_forms_are_apart() -> None:
    w = np.ones(8, np.float32)
    for _ in range(3):
        assert kept(w, "double", lambda w: 2 * w)[0] == 2
        assert kept(w, "triple", lambda w: 3 * w)[0] == 3


def test_memory_is_freed_with_the_weights() -> None:
    _, double = counted()
    w = np.ones(8, np.float32)
    for _ in range(3):
        kept(w, "double", double)
    assert len(weights._seen) == 1
    del w
    gc.collect()
    assert not weights._seen


def test_a_form_that_is_a_view_is_not_kept() -> None:
    """It would keep the weights themselves alive."""
    w = np.ones((3, 4), np.float32)
    for _ in range(3):
        assert np.shares_memory(kept(w, "transposed", np.transpose), w)
    assert not weights._seen[id(w)].forms


def test_the_limit() -> None:
    calls, double = counted()
    set_weight_cache(100)
    small, large = np.ones(10, np.float32), np.ones(13, np.float32)
    for _ in range(4):
        kept(small, "double", double)
    assert len(calls) == 2
    for _ in range(4):
        kept(large, "double", double)
    assert len(calls) == 6
    set_weight_cache(0)
    for _ in range(4):
        kept(small, "double", double)
    assert len(calls) == 10
    assert not weights._seen
    with pytest.raises(ValueError, match="0 bytes or more, got -1"):
        set_weight_cache(-1)


def test_a_convolution_sees_that_its_weight_was_written_to() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 16, 16, 16)).astype(np.float32)
    for side in (1, 3):
        weight = rng.normal(size=(16, 16, side, side)).astype(np.float32)
        for _ in range(3):
            before = ops.conv2d(x, weight)
        weight *= -1
        np.testing.assert_array_equal(ops.conv2d(x, weight), -before)
