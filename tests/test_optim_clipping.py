"""Gradient clipping, against PyTorch and in numbers that are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend, get_backend
from minidiff.optim import clip_gradients
from minidiff.testing.conformance import serving
from tests.optimizer_cases import SHAPES, assert_equal, gradients, host_arrays, on_host


@pytest.mark.parametrize("max_norm", [0.5, 1e6, math.inf])
def test_clipping_like_pytorch(backend: Backend, max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    p = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    for x, g in zip(p, host_arrays(100).values(), strict=True):
        x.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(p, max_norm)
    grads = gradients(backend, 0)
    clipped, ours = clip_gradients(grads, max_norm)
    assert type(ours) is float
    assert ours == pytest.approx(norm.item(), rel=1e-6)
    assert list(clipped) == list(SHAPES)
    for x, (name, g) in zip(p, clipped.items(), strict=True):
        assert isinstance(g, backend.array_type)
        np.testing.assert_allclose(backend.to_numpy(g), x.grad.numpy(), rtol=1e-5, err_msg=name)
    assert_equal(on_host(backend, grads), host_arrays(100))


def test_clipping_of_three_four_five(backend: Backend) -> None:
    grads = {"a": backend.from_numpy(np.asarray([3.0])), "b": backend.from_numpy(np.asarray([[4.0]]))}
    clipped, norm = clip_gradients(grads, 1.0)
    assert norm == 5.0
    assert float(clipped["a"][0]) == pytest.approx(0.6, rel=1e-15)
    assert float(clipped["b"][0, 0]) == pytest.approx(0.8, rel=1e-15)
    same, norm = clip_gradients(grads, 5.0)
    assert norm == 5.0
    assert same["a"] is grads["a"]
    assert clip_gradients({}, 1.0) == ({}, 0.0)


def test_the_norm_may_come_from_a_kernel() -> None:
    """Which gets all gradients at once, and may decline."""
    cpu, seen = get_backend("cpu"), []

    def square_sum(xp: Any, *arrays: Any) -> Any:
        seen.append(len(arrays))
        return NotImplemented if arrays[0].size == 1 else (np.asarray(25.0),)

    grads = {"a": np.ones(2), "b": np.ones((3, 1))}
    with serving(cpu, {"square_sum": square_sum}):
        assert clip_gradients(grads, 9.0) == (grads, 5.0)
        assert clip_gradients({"a": np.full(1, -2.0)}, 9.0)[1] == 2.0
    assert seen == [2, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_passed_on(backend: Backend, bad: float) -> None:
    grads = {"a": backend.from_numpy(np.asarray([1.0, bad])), "b": backend.from_numpy(np.asarray([2.0]))}
    clipped, norm = clip_gradients(grads, 1.0)
    assert not math.isfinite(norm)
    assert clipped["b"] is grads["b"]


def test_clipping_half_precision_does_not_overflow() -> None:
    """300^2 is more than float16 holds."""
    clipped, norm = clip_gradients({"a": np.full(4, 300, np.float16)}, 1.0)
    assert norm == pytest.approx(600.0)
    assert clipped["a"].dtype == np.float16
    np.testing.assert_allclose(clipped["a"], 0.5, rtol=1e-3)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_bad_max_norm(max_norm: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm must be above 0, got {max_norm}"):
        clip_gradients({}, max_norm)
