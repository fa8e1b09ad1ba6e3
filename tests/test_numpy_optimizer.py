"""The NumPy backend's optimizer kernels: the generic rules' bits, whatever the memory orders and number of lanes."""

from __future__ import annotations

import inspect
import itertools
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from array_api_compat import numpy as xp

from minidiff.optim import rules
from minidiff_numpy import memory
from tests.optimizer_kernels import (  # noqa: F401
    KERNELS,
    Array,
    drawn,
    laid_out,
    lies_like,
    on_lanes,
    read_only,
    same_bits,
    small_blocks,
)

_ADAM = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "step": 7}
_MOMENTUM = {"lr": 0.05, "momentum": 0.9, "step": 7}
RULES: dict[str, tuple[str, int, dict[str, Any]]] = {  # the rule, how many states it has, options
    "sgd": ("sgd", 0, {"lr": 0.05, "step": 7, "weight_decay": 0.0}),
    "sgd weight decay": ("sgd", 0, {"lr": 0.05, "step": 7, "weight_decay": 0.1}),
    "momentum": ("momentum", 1, {**_MOMENTUM, "nesterov": False, "weight_decay": 0.0}),
    "nesterov": ("momentum", 1, {**_MOMENTUM, "nesterov": True, "weight_decay": 0.0}),
    "nesterov weight decay": ("momentum", 1, {**_MOMENTUM, "nesterov": True, "weight_decay": 0.1}),
    "adam": ("adam", 2, {**_ADAM, "weight_decay": 0.0}),
    "adamw": ("adam", 2, {**_ADAM, "weight_decay": 0.1}),
}
SHAPES: list[Any] = [(), (0, 3), (97,), (13, 7), (7, 5, 3, 3), (1, 5, 1, 3), (6, 1, 1, 1), (5, 6, 1, 1)]
ORDERS = ["C", "HWIO", "F", "strided", "reversed"]


def generic(rule: str, *arrays: Array, **options: Any) -> tuple[Array, ...]:
    """What the generic rule returns, even where a kernel serves."""
    return tuple(map(np.asarray, getattr(rules, rule)(xp, *arrays, **options)))


# --- the rules


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_the_bits_of_the_rule_in_every_memory_order(name: str, shape: tuple[int, ...]) -> None:
    """Of the parameter and of the gradient; the results lie as the gradient does."""
    rule, states, options = RULES[name]
    for dtype, *orders in itertools.product(("float32", "float64"), ORDERS, ORDERS, ORDERS[:3]):
        arrays = drawn(shape, 2 + states, dtype)
        expected = generic(rule, *arrays, **options)
        p, g = (read_only(laid_out(x, order)) for x, order in zip(arrays, orders[:2], strict=False))
        got = KERNELS[rule](xp, p, g, *(laid_out(x, orders[2]) for x in arrays[2:]), **options)
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert same_bits(one, other), (dtype, orders)
            assert lies_like(one, g), (dtype, orders)
        assert same_bits(p, arrays[0])
        assert same_bits(g, arrays[1])
        assert not np.may_share_memory(got[0], p)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_of_averages_in_every_memory_order(shape: tuple[int, ...]) -> None:
    for dtype, first, second in itertools.product(("float32", "float64"), ORDERS, ORDERS):
        average, p = drawn(shape, 2, dtype)
        (expected,) = generic("ema", average, p, decay=0.9)
        held = read_only(laid_out(p, second))
        (got,) = KERNELS["ema"](xp, laid_out(average, first), held, decay=0.9)
        assert same_bits(got, expected), (dtype, first, second)
        assert lies_like(got, held), (dtype, first, second)
        assert same_bits(held, p)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", [n for n, (_, states, _) in RULES.items() if states])
def test_moments_that_lie_as_the_gradient_are_written_in_place(name: str) -> None:
    rule, states, options = RULES[name]
    p, g, *moments = (laid_out(x, "HWIO") for x in drawn((7, 5, 3, 3), 2 + states))
    before = [x.copy() for x in moments]
    new, *got = KERNELS[rule](xp, p, g, *moments, **options)
    for x, moment, old in zip(got, moments, before, strict=True):
        assert x is moment
        assert not np.array_equal(x, old)
    average = laid_out(p, "HWIO")
    (moved,) = KERNELS["ema"](xp, average, new, decay=0.9)
    assert moved is average
    assert not np.array_equal(moved, p)


def test_every_number_of_lanes_gives_the_same_bits() -> None:
    """Of arrays of several blocks, as they come."""
    arrays = drawn((3, 131, 1000), 4)
    rule, _, options = RULES["adamw"]
    expected = generic("adam", *arrays, **options)
    sums = set()
    for threads in (1, 2, 3, 5):
        with on_lanes(threads):
            got = KERNELS[rule](xp, *(x.copy() for x in arrays), **options)
            assert all(map(same_bits, got, expected))
            (average,) = KERNELS["ema"](xp, arrays[2].copy(), arrays[0], decay=0.9)
            assert same_bits(average, *generic("ema", arrays[2], arrays[0], decay=0.9))
            sums.add(float(KERNELS["square_sum"](xp, *arrays)[0]))
    assert len(sums) == 1


def test_small_arrays_in_c_order_are_left_to_the_rule() -> None:
    """Those in other orders are not: the rule would bring them into C order, or keep them and be slow."""
    for name, (rule, states, options) in RULES.items():
        p, g, *moments = drawn((7, 5, 3, 3), 2 + states)
        assert KERNELS[rule](xp, p, g, *moments, **options) is NotImplemented, name
        turned = laid_out(g, "HWIO")
        assert all(lies_like(x, turned) for x in KERNELS[rule](xp, p, turned, *moments, **options)), name
        assert KERNELS["ema"](xp, p, g, decay=0.9) is NotImplemented
        assert lies_like(KERNELS["ema"](xp, p, turned, decay=0.9)[0], turned)
        large = drawn((17, 1000), 2 + states)
        assert KERNELS[rule](xp, *large, **options) is not NotImplemented


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kinds", [("float16", "float16"), ("float32", "float64"), ("float32", "float16")])
def test_mixed_and_half_precision_is_left_to_the_rule(kinds: tuple[str, str]) -> None:
    p, g, m, v = drawn((97,), 4)
    for name, (rule, states, options) in RULES.items():
        arrays = [p.astype(kinds[0]), g.astype(kinds[1]), *[m, v][:states]]
        assert KERNELS[rule](xp, *arrays, **options) is NotImplemented, name
    assert KERNELS["ema"](xp, g.astype(kinds[1]), p.astype(kinds[0]), decay=0.5) is NotImplemented


def peak(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_only_the_results_are_as_large_as_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside them there is a buffer for each lane."""
    monkeypatch.setattr(memory, "_LARGE", 1 << 60)  # only what NumPy allocates is traced
    p, g, m, v = drawn((16, 1 << 17), 4)
    with on_lanes(2):
        for name, (rule, states, options) in RULES.items():
            used = peak(lambda r=rule, s=states, o=options: KERNELS[r](xp, p, g, *[m, v][:s], **o))  # type: ignore[misc]
            assert p.nbytes <= used < 1.3 * p.nbytes, name
        assert peak(lambda: KERNELS["ema"](xp, m, p, decay=0.5)) < 1.3 * p.nbytes
        assert peak(lambda: KERNELS["square_sum"](xp, p, g)) < 0.01 * p.nbytes


def test_kernels_have_the_signatures_of_the_rules() -> None:
    for name, kernel in KERNELS.items():
        rule = inspect.signature(getattr(rules, name)).parameters
        assert list(inspect.signature(kernel).parameters) == list(rule)


# --- the norm


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_the_sum_of_squares(dtype: str, tolerance: float) -> None:
    """Against math.fsum, for arrays that are not whole blocks."""
    for order in ORDERS:
        arrays = [read_only(laid_out(drawn(shape, 1, dtype)[0], order)) for shape in SHAPES]
        exact = math.fsum(float(x) ** 2 for a in arrays for x in a.ravel())
        (total,) = KERNELS["square_sum"](xp, *arrays)
        assert total.shape == ()
        assert float(total) == pytest.approx(exact, rel=tolerance)
        assert float(rules.square_sum(xp, *arrays)[0]) == pytest.approx(exact, rel=tolerance)


def test_the_sum_of_squares_of_many_numbers_keeps_its_digits() -> None:
    """Of equal numbers, whose roundings do not cancel: a running sum in float32 would be off by 3e-3."""
    x = np.full((10, 100_003), 1.1, np.float32)
    (total,) = KERNELS["square_sum"](xp, x, x)
    assert float(total) == pytest.approx(2 * x.size * float(np.float32(1.1)) ** 2, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_sums_of_squares_that_are_not_finite(bad: float) -> None:
    """As they are, and without an error from adding them up."""
    with np.errstate(over="ignore"):
        (total,) = KERNELS["square_sum"](xp, np.asarray([1.0, bad]), np.asarray([-bad, bad]))
    assert math.isnan(float(total)) if math.isnan(bad) else float(total) == math.inf


def test_half_precision_sums_are_left_to_the_rule() -> None:
    assert KERNELS["square_sum"](xp, np.ones(3, np.float32), np.ones(3, np.float16)) is NotImplemented
