"""The NumPy backend's optimizer kernels: the generic rules' bits, whatever the memory orders and number of lanes."""

from __future__ import annotations

import inspect
import itertools
import math
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_api_compat import numpy as xp

from minidiff import Generator, ops
from minidiff.autodiff import Parameter, value_and_grad
from minidiff.backend import get_backend
from minidiff.checkpoints import read_tensors, save_checkpoint
from minidiff.models import UNet
from minidiff.optim import EMA, SGD, Adam, AdamW, Optimizer, clip_gradients, rules
from minidiff.testing.conformance import serving, without_kernels
from minidiff_numpy import lanes, memory, optimizer

Array = np.ndarray[Any, Any]

KERNELS = {name: getattr(optimizer, name) for name in optimizer.__all__}

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


@pytest.fixture(params=[1, 3])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 16 elements, for arrays of any size, on one lane and on three."""
    monkeypatch.setattr(optimizer, "_SMALL", 0)
    monkeypatch.setattr(optimizer, "_BLOCK", 16)
    monkeypatch.setattr(optimizer, "_RUN", 4)
    monkeypatch.setattr(lanes, "_WORTH", 0)
    before = lanes.count()
    lanes.set_num_threads(request.param)
    yield
    lanes.set_num_threads(before)


def laid_out(x: Array, order: str) -> Array:
    """A copy of `x` in another order of memory."""
    if order == "HWIO" and x.ndim == 4:
        return x.transpose(2, 3, 1, 0).copy().transpose(3, 2, 0, 1)
    if order == "F":
        return x.copy(order="F")
    if order == "strided" and x.ndim:
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if order == "reversed" and x.ndim:
        return x[::-1].copy()[::-1]
    return x.copy()


def drawn(shape: tuple[int, ...], count: int, dtype: str = "float32") -> list[Array]:
    """A parameter, a gradient and states, the last of which may be averages of squares."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.normal(size=shape), dtype) for _ in range(count)]
    return [*arrays[:-1], np.asarray(arrays[-1] ** 2)]


def generic(rule: str, *arrays: Array, **options: Any) -> tuple[Array, ...]:
    """What the generic rule returns, even where a kernel serves."""
    return tuple(map(np.asarray, getattr(rules, rule)(xp, *arrays, **options)))


def read_only(x: Array) -> Array:
    x.flags.writeable = False
    return x


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def lies_like(x: Array, leader: Array) -> bool:
    """Whether `x` is without gaps in the order of the strides of `leader`, where they say one."""
    axes = sorted(range(leader.ndim), key=lambda axis: -abs(leader.strides[axis]))
    return x.transpose(axes).flags.c_contiguous


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
    before = lanes.count()
    arrays = drawn((3, 131, 1000), 4)
    rule, _, options = RULES["adamw"]
    expected = generic("adam", *arrays, **options)
    sums = set()
    try:
        for threads in (1, 2, 3, 5):
            lanes.set_num_threads(threads)
            got = KERNELS[rule](xp, *(x.copy() for x in arrays), **options)
            assert all(map(same_bits, got, expected))
            (average,) = KERNELS["ema"](xp, arrays[2].copy(), arrays[0], decay=0.9)
            assert same_bits(average, *generic("ema", arrays[2], arrays[0], decay=0.9))
            sums.add(float(KERNELS["square_sum"](xp, *arrays)[0]))
    finally:
        lanes.set_num_threads(before)
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


def test_only_the_results_are_as_large_as_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside them there is a buffer for each lane."""
    monkeypatch.setattr(memory, "_LARGE", 1 << 60)  # only what NumPy allocates is traced
    before = lanes.count()
    lanes.set_num_threads(2)
    p, g, m, v = drawn((16, 1 << 17), 4)
    for name, (rule, states, options) in RULES.items():
        used = peak(lambda r=rule, s=states, o=options: KERNELS[r](xp, p, g, *[m, v][:s], **o))  # type: ignore[misc]
        assert p.nbytes <= used < 1.3 * p.nbytes, name
    assert peak(lambda: KERNELS["ema"](xp, m, p, decay=0.5)) < 1.3 * p.nbytes
    assert peak(lambda: KERNELS["square_sum"](xp, p, g)) < 0.01 * p.nbytes
    lanes.set_num_threads(before)


def peak(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


# --- optimizers


MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, 0.05, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, 0.01),
    "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.1),
}


@pytest.fixture
def served() -> Iterator[None]:
    """The CPU backend has these kernels."""
    cpu = get_backend("cpu")
    with serving(cpu, {**cpu.kernels, **KERNELS}):
        yield


class Run:
    """A small network in training, whose convolutions' gradients lie as (KH, KW, C, O)."""

    def __init__(self, name: str) -> None:
        self.model = UNet(1, 4, 1, rng=Generator(0))
        self.optimizer, self.ema = MAKERS[name](self.model), EMA(self.model, 0.9)

    def steps(self, numbers: range) -> None:
        for step in numbers:
            x = Generator(step).normal((2, 1, 4, 4))
            _, grads = value_and_grad(lambda x=x: ops.mse_loss(self.model(x, 7), x), self.model)()
            turned = {name: laid_out(g, "HWIO") for name, g in grads.items()}
            clipped, norm = clip_gradients(turned, 0.5)
            assert norm > 0.5
            self.optimizer.step(clipped)
            self.ema.update()

    def turned(self) -> list[str]:
        """The names of parameters that do not lie in C order."""
        return [name for name, p in self.model.parameters().items() if not p.data.flags.c_contiguous]

    def tensors(self) -> dict[str, dict[str, Array]]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load(self, folder: Path, steps: int) -> None:
        self.model.load_state_dict(read_tensors(folder, "model"))
        self.optimizer.load_state_dict(read_tensors(folder, "optimizer"), steps=steps)
        self.ema.load_state_dict(read_tensors(folder, "ema"), steps=steps)


def assert_same(one: dict[str, dict[str, Array]], other: dict[str, dict[str, Array]]) -> None:
    for part, arrays in one.items():
        assert arrays.keys() == other[part].keys()
        assert all(same_bits(x, other[part][name]) for name, x in arrays.items())


@pytest.mark.usefixtures("served", "small_blocks")
@pytest.mark.parametrize("name", MAKERS)
def test_a_run_that_was_saved_and_resumed_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Although what is read lies in C order, and what went on does not."""
    whole, again = Run(name), Run(name)
    whole.steps(range(3))
    save_checkpoint(tmp_path / "c", whole.tensors(), {})
    whole.steps(range(3, 5))
    again.load(tmp_path / "c", 3)
    path = next(
        key for key, p in again.model.parameters().items() if p.data.ndim == 4 and p.data.shape[1] > 1
    )
    assert again.model.parameters()[path].data.flags.c_contiguous
    assert not whole.model.parameters()[path].data.flags.c_contiguous
    again.steps(range(3, 5))
    assert not again.model.parameters()[path].data.flags.c_contiguous
    assert_same(whole.tensors(), again.tensors())


@pytest.mark.usefixtures("served", "small_blocks")
@pytest.mark.parametrize("name", MAKERS)
def test_everything_lies_as_the_gradients_from_the_first_step_on(name: str) -> None:
    run = Run(name)
    run.steps(range(1))
    states = [(key.partition(".")[2], x) for key, x in run.optimizer.state_dict().items()]
    for key, x in [*run.model.state_dict().items(), *run.ema.averaged.items(), *states]:
        assert lies_like(x, laid_out(run.model.state_dict()[key], "HWIO")), key


@pytest.mark.usefixtures("served", "small_blocks")
@pytest.mark.parametrize("name", MAKERS)
def test_old_arrays_keep_their_numbers(name: str) -> None:
    parameters = {key: Parameter(x) for key, x in zip("abcd", drawn((7, 5, 3, 3), 4), strict=True)}
    grads = {key: read_only(laid_out(p.data, "HWIO")) for key, p in parameters.items()}
    optimizer, average = MAKERS[name](parameters), EMA(parameters, 0.5)
    for _ in range(3):
        held = [p.data for p in parameters.values()]
        states = [*optimizer.state_dict().values(), *average.state_dict().values()]
        with average.swapped_in():
            swapped = [p.data for p in parameters.values()]
        kept = [x.copy() for x in (*held, *states, *swapped)]
        optimizer.step(grads)
        average.update()
        assert all(map(same_bits, (*held, *states, *swapped), kept))
        assert not np.array_equal(parameters["a"].data, held[0])


def test_twenty_steps_and_averages_have_the_generic_bits() -> None:
    """In the sizes of a network, with small and large arrays, in both memory orders."""
    cpu = get_backend("cpu")
    start = {
        "large": (96, 64, 5, 5),
        "middle": (40, 50, 3, 3),
        "small": (9, 8, 3, 3),
        "bias": (96,),
        "scale": (),
    }
    ends = []
    for kernels in ({}, KERNELS):
        parameters = {k: Parameter(drawn(shape, 1)[0]) for k, shape in start.items()}
        optimizer, average = Adam(parameters, 0.01), EMA(parameters, 0.9)
        with serving(cpu, kernels):
            for step in range(20):
                rng = np.random.default_rng(step)
                grads = {k: np.asarray(rng.normal(size=s), np.float32) for k, s in start.items()}
                order = "HWIO" if kernels and step >= 5 else "C"
                optimizer.step({k: laid_out(g, order) for k, g in grads.items()})
                average.update()
        ends.append({"p": {k: p.data for k, p in parameters.items()}, "ema": average.averaged})
    assert_same(*ends)
    assert not ends[1]["p"]["middle"].flags.c_contiguous


def test_clipping_with_the_kernel_is_clipping() -> None:
    cpu = get_backend("cpu")
    grads = {str(i): laid_out(x, "HWIO") for i, x in enumerate(drawn((40, 50, 3, 3), 3))}
    with without_kernels(cpu):
        expected, norm = clip_gradients(grads, 0.5)
    with serving(cpu, KERNELS):
        clipped, ours = clip_gradients(grads, 0.5)
        assert clip_gradients(grads, 1e9)[0] == grads
    assert ours == pytest.approx(norm, rel=1e-6)
    assert math.sqrt(
        sum(float(np.sum(np.square(x, dtype=np.float64))) for x in clipped.values())
    ) == pytest.approx(0.5)
    for key, x in clipped.items():
        np.testing.assert_allclose(x, expected[key], rtol=1e-6)
        assert lies_like(x, grads[key])
