"""Attention on the emulated device against the generic rule in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import numpy as host

import minidiff
from minidiff import ops
from minidiff.backend import Backend
from minidiff_cupy import attention, engine
from minidiff_cupy.attention import scaled_dot_product_attention
from tests import simt

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TOLERANCE = {"exact": 1e-5, "float32": 2e-3, "float16": 2e-3, "bfloat16": 1e-2}  # relative norm


@dataclass(frozen=True)
class Case:
    """Queries (*lead, L, E), keys (*lead, S, E), values (*lead, S, V)."""

    dtype: str
    length: int
    size: int
    width: int
    value_width: int
    lead: tuple[int, ...] = ()
    exact: bool = False
    capability: int = 80
    causal: bool = False
    mask: tuple[int, ...] | None = None  # its shape
    scale: float | None = None
    heads_inside: bool = False  # (N, L, heads, E) in memory

    def __str__(self) -> str:
        kind = f"{self.dtype}{'-exact' * self.exact}-sm{self.capability}{'-causal' * self.causal}"
        return f"{kind}{'-mask' * bool(self.mask)}-{self.length}x{self.size}x{self.width}"


CASES = [
    Case("float32", 5, 7, 8, 8, (1, 2), exact=True),
    Case("float32", 70, 67, 16, 10, (2,), exact=True, causal=True),
    Case("float32", 19, 33, 128, 101, exact=True, mask=(19, 33)),
    Case("float32", 66, 130, 13, 16, causal=False),
    Case("float32", 70, 67, 33, 64, (2,), causal=True, scale=0.3),
    Case("float32", 37, 35, 64, 64, (2, 2), mask=(2, 1, 1, 35), heads_inside=True),
    Case("float32", 21, 40, 64, 40, capability=75, causal=True),
    Case("float16", 66, 130, 8, 16, (1, 1), causal=True),
    Case("float16", 37, 70, 128, 120, (1, 2), causal=True, mask=(37, 70), heads_inside=True),
    Case("float16", 65, 35, 128, 33, capability=75),
    Case("bfloat16", 66, 70, 64, 24, (2,), mask=(2, 66, 1)),
    Case("bfloat16", 70, 130, 12, 16, (1, 3), causal=True, heads_inside=True),
    Case("bfloat16", 20, 33, 30, 32, capability=75),
    Case("float32", 1, 1, 1, 1, (3,)),
    Case("float32", 3, 1, 2, 5, (3,), causal=True),
]


def hosts(case: Case, seed: int = 0) -> list[Any]:
    """q, k, v and dy."""
    rng = np.random.default_rng(seed)
    rows = [(case.length, case.width), (case.size, case.width), (case.size, case.value_width)]
    made = []
    for length, width in [*rows, (case.length, case.value_width)]:
        x = rng.standard_normal((*case.lead, length, width)).astype(DTYPES[case.dtype])
        made.append(np.ascontiguousarray(x.swapaxes(-2, -3)).swapaxes(-2, -3) if case.heads_inside else x)
    return made


def mask_of(case: Case) -> Any:
    """Half of the keys are hidden, and all of them from the first query."""
    if case.mask is None:
        return None
    mask = np.random.default_rng(1).random(case.mask) < 0.5
    mask[..., 0, :] = False
    return mask


def run(backend: Backend, case: Case, arrays: list[Any]) -> tuple[list[Any], list[Any]]:
    """Result and gradients, computed on the device and by the rule in float64."""
    q, k, v, dy = map(backend.from_numpy, arrays)
    mask = mask_of(case)
    options = {"causal": case.causal, "scale": case.scale}
    with minidiff.precision("exact" if case.exact else "fast"), simt.device(capability=case.capability):
        there = None if mask is None else backend.from_numpy(mask)
        y, vjp = scaled_dot_product_attention(backend.xp, q, k, v, there, **options)
        actual = [y, *(pull() for pull in vjp(dy))]
    for x, before in zip((q, k, v, dy), arrays, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(x), before)
    wide = [x.astype(np.float64) for x in arrays]
    expected, pull = ops.scaled_dot_product_attention.rule(host, *wide[:3], mask, **options)
    return actual, [expected, *(f() for f in pull(wide[3])[:3])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients_are_those_of_the_rule(simt_backend: Backend, case: Case) -> None:
    actual, expected = run(simt_backend, case, hosts(case))
    exact = case.dtype == "float32" and (case.exact or case.capability < 80)
    tolerance = TOLERANCE["exact" if exact else case.dtype]
    for name, a, e in zip(("y", "dq", "dk", "dv"), actual, expected, strict=True):
        assert a.dtype == DTYPES[case.dtype]
        assert a.shape == e.shape
        size = max(float(np.linalg.norm(e)), 1.0)  # the gradient of a single score is 0
        off = float(np.linalg.norm(simt_backend.to_numpy(a).astype(np.float64) - e)) / size
        assert off <= tolerance, f"{name} is off by {off:.1e}"


def test_a_result_lies_in_memory_as_the_queries_do(simt_backend: Backend) -> None:
    for value_width in (16, 10):
        case = Case("float16", 5, 7, 16, value_width, (2, 3), heads_inside=True)
        actual, _ = run(simt_backend, case, hosts(case))
        for x in actual:
            assert x.swapaxes(1, 2).flags.c_contiguous


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_orders_of_threads_give_the_same_bits(dtype: str) -> None:
    case = Case(dtype, 70, 67, 16, 16, (2,), causal=True)
    results = []
    for order in simt.SCHEDULES:
        with simt.schedule(order):
            backend = simt.backend()
            results.append([backend.to_numpy(x).tobytes() for x in run(backend, case, hosts(case))[0]])
    assert results[0] == results[1] == results[2]


def test_large_and_rising_scores(simt_backend: Backend) -> None:
    case = Case("float32", 20, 150, 16, 16, exact=True, scale=1.0)
    q, k, v, dy = hosts(case)
    q, k = (
        np.abs(q) * 20,
        np.sort(np.abs(k), axis=0),
    )  # far above what exp can take, and the last tile has the largest
    actual, expected = run(simt_backend, case, [q, k, v, dy])
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(simt_backend.to_numpy(a), e, rtol=1e-3, atol=1e-3)


def test_rows_that_cannot_be_read_in_pieces(simt_backend: Backend) -> None:
    case = Case("float16", 9, 20, 16, 16, (2,))
    arrays = hosts(case)
    wide = [np.zeros((*x.shape[:-1], 19), x.dtype) for x in arrays]
    for shifted, x in zip(wide, arrays, strict=True):
        shifted[..., 1:17] = x
    q, k, v, dy = (simt_backend.from_numpy(x)[..., 1:17] for x in wide)
    y, vjp = scaled_dot_product_attention(simt_backend.xp, q, k, v, None, causal=False, scale=None)
    actual = [y, *(pull() for pull in vjp(dy))]
    for a, b in zip(actual, run(simt_backend, case, arrays)[0], strict=True):
        np.testing.assert_array_equal(simt_backend.to_numpy(a), simt_backend.to_numpy(b))


def test_columns_as_rows(simt_backend: Backend) -> None:
    case = Case("float32", 9, 9, 16, 16, exact=True)
    arrays = hosts(case)
    q, k, v, dy = (simt_backend.xp.permute_dims(simt_backend.from_numpy(x.T), (1, 0)) for x in arrays)
    with minidiff.precision("exact"):
        y, vjp = scaled_dot_product_attention(simt_backend.xp, q, k, v, None, causal=False, scale=None)
        actual = [y, *(pull() for pull in vjp(dy))]
    for a, b in zip(actual, run(simt_backend, case, arrays)[0], strict=True):
        np.testing.assert_array_equal(simt_backend.to_numpy(a), simt_backend.to_numpy(b))


def test_a_gradient_that_nobody_asks_for_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, launched = simt.backend(), []
    load = engine.load
    monkeypatch.setattr(engine, "load", lambda xp, file, name: launched.append(name) or load(xp, file, name))
    q, k, v, dy = map(backend.from_numpy, hosts(Case("float32", 5, 7, 8, 8)))
    _, vjp = scaled_dot_product_attention(backend.xp, q, k, v, None, causal=False, scale=None)
    pull_q, _, _ = vjp(dy)
    pull_q()
    pull_q()
    assert [name.partition("<")[0] for name in launched] == ["answer", "row_products", "pull_queries"]


@pytest.mark.parametrize(
    ("q", "k", "v", "mask", "dtype"),
    [
        ((5, 8), (7, 8), (7, 8), None, np.float64),
        ((5, 200), (7, 200), (7, 8), None, np.float32),
        ((5, 8), (7, 8), (7, 200), None, np.float32),
        ((2, 5, 8), (7, 8), (7, 8), None, np.float32),
        ((2, 5, 8), (2, 7, 8), (7, 8), None, np.float32),
        ((5, 8), (0, 8), (0, 8), None, np.float32),
        ((0, 8), (7, 8), (7, 8), None, np.float32),
        ((2, 1, 1, 5, 8), (2, 1, 1, 7, 8), (2, 1, 1, 7, 8), None, np.float32),
        ((5, 8), (7, 8), (7, 8), np.zeros((5, 7), np.float32), np.float32),
        ((5, 8), (7, 8), (7, 8), np.ones((2, 5, 7), np.bool_), np.float32),
    ],
    ids=str,
)
def test_what_is_left_to_the_generic_rule(q: Any, k: Any, v: Any, mask: Any, dtype: Any) -> None:
    backend = simt.backend()
    arrays = [backend.from_numpy(np.zeros(shape, dtype)) for shape in (q, k, v)]
    mask = None if mask is None else backend.from_numpy(mask)
    result = scaled_dot_product_attention(backend.xp, *arrays, mask, causal=False, scale=None)
    assert result is NotImplemented


def test_shared_memory_is_what_gpus_have() -> None:
    for number in ("float", "half", "bfloat16"):
        for width in attention.WIDTHS:
            for exact in (False, True):
                assert attention.variant_for(number, width, 75, exact).shared_bytes() <= 64 << 10
                assert attention.variant_for(number, width, 86, exact).shared_bytes() <= 99 << 10
