"""Optimizers on the emulated device, one parameter at a time and all at once: bit for bit what the rules compute."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import numpy as host

from minidiff.backend import Backend
from minidiff.optim import rules
from minidiff_cupy import engine, optimizer
from tests import simt

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
SHAPES = ((3,), (4, 5, 3, 3), (), (0, 7), (70, 61), (1, 6, 1), (4096,), (4097,))
STEPS: dict[str, tuple[int, dict[str, Any]]] = {  # how many states, options
    "sgd": (0, {"lr": 0.1, "weight_decay": 0.3, "step": 1}),
    "momentum": (1, {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "step": 2}),
    "nesterov": (1, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2, "step": 2}),
    "adam": (2, {"lr": 0.1, "beta1": 0.8, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.2, "step": 3}),
}


def row_of(rng: Any, shape: tuple[int, ...], dtype: Any, states: int) -> list[Any]:
    """A parameter, its gradient, and its states, of which no square is negative."""
    row = [np.asarray(rng.standard_normal(shape)).astype(dtype) for _ in range(2)]
    return row + [np.asarray(np.abs(rng.standard_normal(shape)), np.float32) for _ in range(states)]


def rows_of(count: int, dtype: Any, states: int) -> list[list[Any]]:
    rng = np.random.default_rng(0)
    return [row_of(rng, SHAPES[i % len(SHAPES)], dtype, states) for i in range(count)]


def rule_of(name: str) -> str:
    return "momentum" if name == "nesterov" else name


def expected_of(name: str, row: list[Any], options: dict[str, Any]) -> Any:
    return getattr(rules, rule_of(name))(host, *row, **options)


def check(backend: Backend, actual: Any, expected: Any) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        np.testing.assert_array_equal(backend.to_numpy(a), e)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_one_parameter(simt_backend: Backend, name: str, dtype: str) -> None:
    states, options = STEPS[name]
    for row in rows_of(len(SHAPES), DTYPES[dtype], states):
        there = [simt_backend.from_numpy(x) for x in row]
        actual = getattr(optimizer, rule_of(name))(simt_backend.xp, *there, **options)
        check(simt_backend, actual, expected_of(name, row, options))
        for x, before in zip(there[:2], row, strict=False):
            np.testing.assert_array_equal(simt_backend.to_numpy(x), before)
        assert all(new is old for new, old in zip(actual[1:], there[2:], strict=True))


@pytest.mark.parametrize("name", STEPS)
def test_all_parameters_at_once(simt_backend: Backend, name: str) -> None:
    """More than one launch takes, and of different dtypes."""
    states, options = STEPS[name]
    dtypes = ["float32"] * 67 + ["bfloat16"] * 9 + ["float16"] + ["float32"] * 3
    rows = [
        row for d in ("float32", "bfloat16", "float16") for row in rows_of(dtypes.count(d), DTYPES[d], states)
    ]
    there = [tuple(map(simt_backend.from_numpy, row)) for row in rows]
    actual = getattr(optimizer, f"{rule_of(name)}_all")(simt_backend.xp, there, **options)
    assert len(actual) == len(rows)
    for row, new in zip(rows, actual, strict=True):
        check(simt_backend, new, expected_of(name, row, options))


def turned(x: Any, order: tuple[int, ...]) -> Any:
    """`x` with its memory in another order."""
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@pytest.mark.parametrize(("of_p", "of_g"), [((0, 1, 2, 3), (0, 2, 3, 1)), ((0, 2, 3, 1), (0, 1, 2, 3))])
def test_arrays_in_different_orders(simt_backend: Backend, of_p: Any, of_g: Any) -> None:
    """What is new lies as the gradient does, so that from the second step on nothing is copied."""
    _, options = STEPS["adam"]
    p, g, m, v = row_of(np.random.default_rng(0), (4, 5, 3, 3), np.float32, 2)
    there = [simt_backend.from_numpy(x) for x in (turned(p, of_p), turned(g, of_g), m, v)]
    actual = optimizer.adam(simt_backend.xp, *there, **options)
    check(simt_backend, actual, expected_of("adam", [p, g, m, v], options))
    assert all(x.strides == there[1].strides for x in actual)
    again = optimizer.adam(simt_backend.xp, actual[0], there[1], *actual[1:], **options)
    assert again[1] is actual[1]
    assert again[2] is actual[2]


@pytest.mark.parametrize(
    "key", [(slice(None), slice(1, 6)), (slice(None, None, -1), slice(None, None, 2)), (0,)]
)
def test_arrays_with_gaps(simt_backend: Backend, key: Any) -> None:
    _, options = STEPS["adam"]
    row = row_of(np.random.default_rng(0), (9, 7), np.float32, 2)
    there = [simt_backend.from_numpy(x)[key] for x in row]
    actual = optimizer.adam(simt_backend.xp, *there, **options)
    check(simt_backend, actual, expected_of("adam", [x[key] for x in row], options))


def test_a_gradient_that_is_one_number_repeated(simt_backend: Backend) -> None:
    _, options = STEPS["sgd"]
    p, g = np.ones((5, 6), np.float32), np.float32(3)
    there = simt_backend.xp.broadcast_to(simt_backend.from_numpy(np.asarray(g)), (5, 6))
    actual = optimizer.sgd(simt_backend.xp, simt_backend.from_numpy(p), there, **options)
    check(simt_backend, actual, expected_of("sgd", [p, np.full((5, 6), g)], options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_averages(simt_backend: Backend, dtype: str) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for shape in SHAPES * 9:
        p, average = row_of(rng, shape, DTYPES[dtype], 1)[1:]
        rows.append((average, turned(p, (0, 2, 3, 1)) if p.ndim == 4 else p))
    there = [tuple(map(simt_backend.from_numpy, row)) for row in rows]
    actual = optimizer.ema_all(simt_backend.xp, there, decay=0.75)
    for (average, p), (before, q), (new,) in zip(rows, there, actual, strict=True):
        check(simt_backend, (new,), rules.ema(host, average, p, decay=0.75))
        assert (new is before) == (p.ndim != 4)
        assert [n // 4 for n in new.strides] == [n // q.itemsize for n in q.strides]
    (one,) = optimizer.ema(simt_backend.xp, *map(simt_backend.from_numpy, rows[0]), decay=0.75)
    np.testing.assert_array_equal(simt_backend.to_numpy(one), simt_backend.to_numpy(actual[0][0]))


def gradients(count: int) -> list[Any]:
    """Of all dtypes, in all orders."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        dtype = list(DTYPES.values())[i % 5 % 3]
        g = row_of(rng, SHAPES[i % len(SHAPES)], dtype, 0)[0]
        made.append(turned(g, (1, 2, 0, 3)) if g.ndim == 4 else g)
    return made


def exact_square_sum(arrays: list[Any]) -> float:
    return float(sum((x.astype(np.float64) ** 2).sum() for x in arrays))


def test_square_sums(simt_backend: Backend) -> None:
    for count in (1, 5, 70):
        arrays = gradients(count)
        (total,) = optimizer.square_sum(simt_backend.xp, *map(simt_backend.from_numpy, arrays))
        assert total.shape == ()
        assert float(total) == pytest.approx(exact_square_sum(arrays), rel=1e-7)
    (total,) = optimizer.square_sum(simt_backend.xp, simt_backend.from_numpy(np.zeros((0, 3), np.float32)))
    assert float(total) == 0


def test_a_square_sum_of_many_blocks() -> None:
    backend, x = simt.backend(), np.random.default_rng(0).standard_normal(1_100_000).astype(np.float32)
    (total,) = optimizer.square_sum(backend.xp, backend.from_numpy(x))
    assert float(total) == pytest.approx(exact_square_sum([x]), rel=1e-7)


def test_square_sums_have_the_same_bits_in_all_orders() -> None:
    sums = set()
    for order in simt.SCHEDULES:
        with simt.schedule(order):
            backend = simt.backend()
            (total,) = optimizer.square_sum(backend.xp, *map(backend.from_numpy, gradients(9)))
            sums.add(float(total))
    assert len(sums) == 1


@pytest.mark.parametrize("part", [0.25, 1.5])
def test_clipping(simt_backend: Backend, part: float) -> None:
    arrays = gradients(70)
    norm = exact_square_sum(arrays) ** 0.5
    there = [simt_backend.from_numpy(x) for x in arrays]
    squares, clipped = optimizer.clip_all(simt_backend.xp, there, max_norm=part * norm)
    assert float(squares) ** 0.5 == pytest.approx(norm, rel=1e-7)
    for x, before, new in zip(arrays, there, clipped, strict=True):
        np.testing.assert_array_equal(simt_backend.to_numpy(before), x)
        tolerance = TOLERANCE[str(x.dtype)]
        wide = x.astype(np.float64) * min(part, 1)
        np.testing.assert_allclose(
            simt_backend.to_numpy(new).astype(np.float64), wide, rtol=tolerance, atol=1e-7
        )


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_clips_nothing(simt_backend: Backend, bad: float) -> None:
    x = np.array([1, 2, bad], np.float32)
    squares, (new,) = optimizer.clip_all(simt_backend.xp, [simt_backend.from_numpy(x)], max_norm=1.0)
    assert not np.isfinite(float(squares))
    np.testing.assert_array_equal(simt_backend.to_numpy(new), x)


def test_few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, launched = simt.backend(), []
    load = engine.load
    monkeypatch.setattr(engine, "load", lambda *asked: launched.append(asked[2]) or load(*asked))
    states, options = STEPS["adam"]
    rows = [tuple(map(backend.from_numpy, row)) for row in rows_of(90, np.float32, states)]
    optimizer.adam_all(backend.xp, rows, **options)
    assert launched == ["adam<float>", "adam<float>"]


def test_what_is_left_to_the_generic_rules() -> None:
    backend = simt.backend()
    wide, narrow = (backend.from_numpy(np.ones(3, dtype)) for dtype in (np.float64, np.float16))
    single = backend.from_numpy(np.ones(3, np.float32))
    options = STEPS["momentum"][1]
    assert optimizer.momentum(backend.xp, wide, wide, wide, **options) is NotImplemented
    assert optimizer.momentum(backend.xp, narrow, single, single, **options) is NotImplemented
    assert optimizer.momentum(backend.xp, narrow, narrow, narrow, **options) is NotImplemented
    assert optimizer.ema(backend.xp, wide, wide, decay=0.5) is NotImplemented
    assert optimizer.ema(backend.xp, narrow, narrow, decay=0.5) is NotImplemented
    assert optimizer.square_sum(backend.xp, single, wide) is NotImplemented
    assert optimizer.clip_all(backend.xp, [single, wide], max_norm=1.0) is NotImplemented
