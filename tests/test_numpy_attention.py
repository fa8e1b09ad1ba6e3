"""Attention on the NumPy backend against the generic rule, PyTorch and closed forms, in blocks small and large."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import numpy as xp

from minidiff import ops
from minidiff.testing import CASES, Case, check_case
from minidiff_numpy import attention, backend, blocks, lanes

Array = np.ndarray[Any, Any]
NAME = "scaled_dot_product_attention"
KERNEL = attention.scaled_dot_product_attention
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(autouse=True, params=["one block, one lane", "small blocks, three lanes"])
def sharing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work as small as a test's in one go, and cut up finely for many lanes."""
    before = lanes.count()
    monkeypatch.setattr(attention, "_FEW", 1)
    if request.param == "small blocks, three lanes":
        monkeypatch.setattr(lanes, "_WORTH", 0)
        monkeypatch.setattr(attention, "_STRIPE", 2)
        for module in (attention, blocks):
            monkeypatch.setattr(module, "BLOCK", 30)
        lanes.set_num_threads(3)
    else:
        lanes.set_num_threads(1)
    yield
    lanes.set_num_threads(before)


def laid_out(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, order: str) -> Array:
    """Normal numbers, read-only, in an order of memory: as written, heads within tokens, turned round, or with gaps."""
    if order == "heads" and len(shape) > 2:
        x = rng.normal(size=(*shape[:-3], shape[-2], shape[-3], shape[-1])).swapaxes(-2, -3)
    elif order == "transposed":
        x = rng.normal(size=shape[::-1]).T
    elif order == "gaps":
        x = rng.normal(size=(*shape[:-2], 2 * shape[-2], 2 * shape[-1]))[..., ::-2, ::2]
    else:
        x = rng.normal(size=shape)
    x = x.astype(dtype) if order != "gaps" else np.repeat(x.astype(dtype), 2, axis=-1)[..., ::2]
    x.flags.writeable = False
    return x


def compare(q: Array, k: Array, v: Array, mask: Any = None, **options: Any) -> None:
    """Value and gradients of the kernel are those of the rule."""
    options = {"causal": False, "scale": None} | options
    y, vjp = KERNEL(xp, q, k, v, mask, **options)
    expected, expected_vjp = getattr(ops, NAME).rule(xp, q, k, v, mask, **options)
    dy = laid_out(np.random.default_rng(1), expected.shape, expected.dtype, "C")
    for mine, other in zip((y, *vjp(dy)), (expected, *(f() for f in expected_vjp(dy)[:3])), strict=True):
        assert mine.dtype == other.dtype == q.dtype
        assert mine.shape == other.shape
        bound = TOLERANCE[str(other.dtype)] * np.abs(other).max(initial=1)
        np.testing.assert_allclose(mine, other, rtol=0, atol=bound)


@pytest.mark.parametrize("seed", range(150))
def test_it_is_the_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lead = tuple(map(int, rng.integers(1, 5, rng.integers(0, 4))))
    length, size, width, out = map(int, rng.integers(1, 14, 4))
    dtype, order = rng.choice(["float32", "float64"]), str(rng.choice(["C", "heads", "transposed", "gaps"]))
    q, k, v = (
        laid_out(rng, (*lead, *s), dtype, order) for s in ((length, width), (size, width), (size, out))
    )
    mask = None
    if rng.random() < 0.5:
        shape = [n if rng.random() < 0.7 else 1 for n in (*lead, length, size)]
        mask = rng.random(shape[int(rng.integers(0, len(shape))) :]) < 0.6
    compare(q, k, v, mask, causal=rng.random() < 0.5, scale=rng.choice([None, 0.3, 2.0]))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("order", ["C", "heads"])
@pytest.mark.parametrize(("length", "size"), [(64, 64), (30, 70), (70, 30), (1, 5), (5, 1)])
def test_shapes_of_networks(length: int, size: int, order: str, causal: bool) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (laid_out(rng, (2, 3, n, 16), np.float32, order) for n in (length, size, size))
    compare(q, k, v, causal=causal)
    compare(q, k, v, rng.random((length, size)) < 0.5, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_that_of_pytorch(causal: bool, masked: bool) -> None:
    torch = pytest.importorskip("torch")
    if causal and masked:
        pytest.skip("PyTorch takes one of the two")
    rng = np.random.default_rng(3)
    q, k, v, dy = rng.normal(size=(4, 2, 3, 9, 5))
    mask = rng.random((9, 9)) < 0.6
    mask[:, 0] = True  # of a query without keys PyTorch makes zeros
    y, vjp = KERNEL(xp, q, k, v, mask if masked else None, causal=causal, scale=None)
    there = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    allowed = torch.from_numpy(mask) if masked else None
    expected = torch.nn.functional.scaled_dot_product_attention(*there, attn_mask=allowed, is_causal=causal)
    np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-12)
    for mine, other in zip(vjp(dy), torch.autograd.grad(expected, there, torch.from_numpy(dy)), strict=True):
        np.testing.assert_allclose(mine, other.numpy(), atol=1e-12)


def test_equal_keys_average_the_values() -> None:
    v = np.random.default_rng(4).normal(size=(2, 7, 3))
    q, k = np.ones((2, 4, 5)), np.ones((2, 7, 5))
    y, _ = KERNEL(xp, q, k, v, None, causal=False, scale=None)
    np.testing.assert_allclose(y, np.broadcast_to(v.mean(axis=1, keepdims=True), y.shape), atol=1e-14)
    y, _ = KERNEL(xp, q, k, v, None, causal=True, scale=None)
    seen = np.arange(1, 8)[:, None]
    np.testing.assert_allclose(y, (v.cumsum(axis=1) / seen)[:, :4], atol=1e-14)


@pytest.mark.parametrize("causal", [False, True])
def test_a_query_with_no_key_left_looks_at_all_alike(causal: bool) -> None:
    rng = np.random.default_rng(5)
    q, k, v, dy = rng.normal(size=(4, 2, 6, 3))
    mask = rng.random((6, 6)) < 0.7
    mask[2] = False
    mask[0] = [False, True, True, True, True, True]  # what is left to it is behind it
    alone = [0, 2] if causal else [2]
    y, vjp = KERNEL(xp, q, k, v, mask, causal=causal, scale=None)
    np.testing.assert_allclose(
        y[:, alone], np.broadcast_to(v.mean(axis=1, keepdims=True), (2, len(alone), 3))
    )
    others = np.array(dy)
    others[:, alone] = 0
    for mine, rest in zip(
        vjp(dy)[:2], vjp(others)[:2], strict=True
    ):  # scores that do not count have no gradient
        np.testing.assert_allclose(mine, rest, atol=1e-12)
    compare(q, k, v, mask, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [10, 30, 300])
def test_scores_of_any_size(size: float, causal: bool) -> None:
    """Exponentials of large scores would overflow, of very negative ones vanish."""
    rng = np.random.default_rng(6)
    q, k, v, dy = rng.normal(size=(4, 2, 9, 8))
    q[0] *= size
    q[1] = -size * np.abs(q[1])
    k[1] = np.abs(k[1])
    single = [x.astype(np.float32) for x in (q, k, v)]
    y, vjp = KERNEL(xp, *single, None, causal=causal, scale=None)
    exact, exact_vjp = getattr(ops, NAME).rule(
        xp, *(x.astype(np.float64) for x in single), causal=causal, scale=None
    )
    assert np.abs(y - exact).max() < 1e-6 * size
    for mine, thunk in zip(vjp(dy.astype(np.float32)), exact_vjp(dy)[:3], strict=True):
        other = thunk()
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6 * size * (1 + np.abs(other).max()))


def test_results_lie_in_memory_as_the_operands_do() -> None:
    """So that heads become tokens, and gradients of tokens, without a copy."""
    rng = np.random.default_rng(7)
    q, k, v = (laid_out(rng, (2, 4, n, 8), np.float32, "heads") for n in (10, 12, 12))
    y, vjp = KERNEL(xp, q, k, v, None, causal=False, scale=None)
    for x in (y, *vjp(y)):
        assert x.swapaxes(1, 2).flags.c_contiguous


def test_heads_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Array) -> Array:
        raise AssertionError(f"{x.shape} was copied")

    monkeypatch.setattr(attention.np, "ascontiguousarray", refuse)
    q = laid_out(np.random.default_rng(8), (2, 4, 10, 8), np.float32, "heads")
    KERNEL(xp, q, q, q, None, causal=False, scale=None)[1](q)


def test_all_scores_never_exist(request: pytest.FixtureRequest) -> None:
    if "small" in request.node.name:
        pytest.skip("a large matrix in small blocks takes long")
    q = np.random.default_rng(9).normal(size=(1, 3000, 8)).astype(np.float32)
    tracemalloc.start()
    try:
        y, vjp = KERNEL(xp, q, q, q, None, causal=False, scale=None)
        vjp(y)
        assert tracemalloc.get_traced_memory()[1] < 3000 * 3000 * 4 / 3
    finally:
        tracemalloc.stop()


def test_the_same_bits_every_time() -> None:
    rng = np.random.default_rng(10)
    q, k, v, dy = (laid_out(rng, (1, 2, 40, 8), np.float32, "heads") for _ in range(4))
    runs = []
    for _ in range(5):
        y, vjp = KERNEL(xp, q, k, v, None, causal=False, scale=None)
        runs.append([x.tobytes() for x in (y, *vjp(dy))])
    assert all(run == runs[0] for run in runs)


def left_to_the_rule() -> dict[str, tuple[Any, ...]]:
    q, k, v = np.random.default_rng(11).normal(size=(3, 2, 5, 5)).astype(np.float32)
    calls: dict[str, tuple[Any, ...]] = {
        "floating mask": (q, k, v, np.zeros((5, 5), np.float32)),
        "a mask with more axes": (q, k, v, np.ones((3, 2, 5, 5), bool)),
        "heads broadcast": (q, k[:1], v[:1], None),
        "values broadcast": (q, k, v[0], None),
        "no queries": (q[:, :0], k, v, None),
        "an empty batch": (q[:0], k[:0], v[:0], None),
    }
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        calls[str(dtype)] = (*(x.astype(dtype) for x in (q, k, v)), None)
    return calls


@pytest.mark.parametrize("operands", left_to_the_rule().values(), ids=left_to_the_rule())
def test_what_the_kernel_does_not_serve_is_left_to_the_rule(operands: tuple[Any, ...]) -> None:
    assert KERNEL(xp, *operands, causal=False, scale=None) is NotImplemented


def test_few_scores_are_left_to_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FEW", 51)
    q = np.ones((2, 5, 3), np.float32)
    assert KERNEL(xp, q, q, q, None, causal=False, scale=None) is NotImplemented


@pytest.mark.parametrize("case", [case for case in CASES if case.op == NAME], ids=str)
def test_conformance(case: Case) -> None:
    cpu = backend()
    errors = check_case(replace(cpu, kernels={**cpu.kernels, NAME: KERNEL}), case)
    floating_mask = len(case.inputs) == 4 and case.inputs[3].kind == "normal"
    broadcast = "broadcast" in case.note or (
        len(case.inputs) == 4 and len(case.inputs[3].shape) > len(case.inputs[0].shape)
    )
    empty = 0 in case.inputs[0].shape
    assert (errors.served > 0) == (not floating_mask and not broadcast and not empty)
