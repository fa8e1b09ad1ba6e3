"""Recording, backward, freezing, checkpoints: what is wrapped, what adds up, what is freed, what is refused."""

from __future__ import annotations

import copy
import gc
import operator
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minidiff
from minidiff import (
    Parameter,
    Tensor,
    backward,
    checkpoint,
    ops,
    record,
    stop_gradient,
    value_and_grad,
)
from minidiff.autodiff import op
from minidiff.backend import Backend
from minidiff.random import Generator
from minidiff.testing import check_gradient

RNG = np.random.default_rng(0)
A = RNG.uniform(0.5, 2.0, (3, 3))
B = RNG.uniform(0.5, 2.0, (3, 3))


def parameter(backend: Backend, host: Any) -> Parameter:
    return Parameter(backend.from_numpy(np.asarray(host, np.float64)))


# --- operators -------------------------------------------------------------------------------------------

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul]
COMPARISON = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_operators_of_two_tensors(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    p, q = parameter(backend, A), parameter(backend, B)
    with record():
        y = operation(p, q)
    assert isinstance(y, Tensor)
    np.testing.assert_allclose(backend.to_numpy(y.data), operation(A, B))
    check_gradient(operation, A, B, backend=backend)


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_an_array_on_the_right(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    constant = backend.from_numpy(B)
    check_gradient(lambda p: operation(p, constant), A, backend=backend)


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_an_array_on_the_left(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    constant = backend.from_numpy(A)
    if backend.device == "strict":  # array-api-strict raises instead of yielding: use ops.add(array, tensor)
        with pytest.raises(TypeError):
            operation(constant, parameter(backend, B))
        return
    check_gradient(lambda p: operation(constant, p), B, backend=backend)


@pytest.mark.parametrize("operation", [o for o in ARITHMETIC if o is not operator.matmul])
def test_a_number_on_either_side(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    check_gradient(lambda p: operation(p, 1.5), A, backend=backend)
    check_gradient(lambda p: operation(1.5, p), A, backend=backend)
    check_gradient(lambda p: operation(p, np.float64(1.5)), A, backend=backend)


@pytest.mark.parametrize("operation", COMPARISON)
def test_comparisons_are_element_by_element(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    p = parameter(backend, A)
    with record():
        results = [
            operation(p, backend.from_numpy(B)),
            operation(p, parameter(backend, B)),
            operation(p, 1.0),
        ]
    for result, other in zip(results, (B, B, 1.0), strict=True):
        assert isinstance(result, backend.array_type)
        np.testing.assert_array_equal(backend.to_numpy(result), operation(A, other))


def test_unary_operators_and_indexing(backend: Backend) -> None:
    check_gradient(lambda p: -p, A, backend=backend)
    check_gradient(lambda p: abs(p - 1.0), A, backend=backend)
    check_gradient(lambda p: p[0, 1:], A, backend=backend)
    check_gradient(lambda p: p.mT, A, backend=backend)
    check_gradient(lambda p: p[backend.from_numpy(A > 1)], A, backend=backend)


def test_a_tensor_describes_itself(backend: Backend) -> None:
    p = parameter(backend, A)
    assert repr(p) == f"Parameter(shape=(3, 3), dtype={p.data.dtype}, device={backend.device!r})"
    assert (p.shape, p.ndim, p.size, len(p)) == ((3, 3), 2, 9, 3)
    assert p.dtype == backend.xp.float64
    assert p.device == p.data.device
    assert p.__array_namespace__() is ops
    number = parameter(backend, 2.5)
    assert (float(number), int(number), bool(number)) == (2.5, 2, True)
    assert {p: 1}[p] == 1  # parameters can be keys


# --- what is wrapped -------------------------------------------------------------------------------------


def test_nothing_is_wrapped_outside_record(backend: Backend) -> None:
    p = parameter(backend, A)
    for y in (p + 1, ops.exp(p), ops.matmul(p, p), p[0, :], ops.concat([p, p])):
        assert isinstance(y, backend.array_type)


def test_constants_stay_plain_inside_record(backend: Backend) -> None:
    x = backend.from_numpy(A)
    with record():
        assert isinstance(ops.exp(x), backend.array_type)
        assert isinstance(stop_gradient(parameter(backend, A)), backend.array_type)
        assert isinstance(ops.exp(parameter(backend, A)), Tensor)


def test_stop_gradient_stops_it(backend: Backend) -> None:
    p = parameter(backend, A)
    with record():
        loss = ops.sum(p * stop_gradient(p))
    np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p)), A)
    assert stop_gradient(3) == 3


def test_a_reduction_is_an_array_not_a_scalar() -> None:
    total = ops.sum(np.ones(3))
    assert isinstance(total, np.ndarray)
    assert total.shape == ()


# --- gradients -------------------------------------------------------------------------------------------


def test_a_value_that_is_used_again_adds_up(backend: Backend) -> None:
    p = parameter(backend, A)
    with record():
        h = p * 2.0
        loss = ops.sum(h * h + h) + ops.sum(p)
    np.testing.assert_allclose(backend.to_numpy(backward(loss).wrt(p)), 8 * A + 2 + 1)


def test_the_order_of_use_does_not_matter() -> None:
    """A long and a short way to the same parameter: its gradient leaves when both have arrived."""
    p = Parameter(np.asarray(2.0))
    with record():
        h = ops.square(p)
        long = ops.exp(ops.log(ops.exp(ops.log(h))))
        loss = h * long
    np.testing.assert_allclose(backward(loss).wrt(p), 4 * 2.0**3)


def test_broadcasting_is_undone(backend: Backend) -> None:
    p = parameter(backend, np.ones((3, 1)))
    with record():
        loss = ops.sum(p + backend.from_numpy(np.ones((2, 3, 4))))
    np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p)), np.full((3, 1), 8.0))


def test_what_the_loss_does_not_use_gets_zeros(backend: Backend) -> None:
    p, q = parameter(backend, A), parameter(backend, B[:2])
    with record({"p": p, "q": q}):
        loss = ops.sum(p)
    grads = backward(loss)
    assert isinstance(grads["q"], backend.array_type)
    np.testing.assert_array_equal(backend.to_numpy(grads["q"]), np.zeros((2, 3)))


class Pair:
    """Something with `parameters`, as a module is."""

    def __init__(self, p: Parameter, q: Parameter) -> None:
        self.p, self.q = p, q

    def parameters(self) -> dict[str, Parameter]:
        return {"p": self.p, "q.weight": self.q}

    def __call__(self, x: Any) -> Any:
        return ops.sum(self.p * x + self.q)


def test_gradients_by_name(backend: Backend) -> None:
    module = Pair(parameter(backend, A), parameter(backend, B))
    with record(module):
        loss = module(3.0)
    grads = backward(loss)
    assert list(grads) == ["p", "q.weight"]
    assert len(grads) == 2
    np.testing.assert_array_equal(backend.to_numpy(grads["p"]), np.full((3, 3), 3.0))
    np.testing.assert_array_equal(backend.to_numpy(grads.wrt(module.q)), np.ones((3, 3)))
    with pytest.raises(KeyError):
        grads["r"]


def test_recording_some_parameters_freezes_the_others(backend: Backend) -> None:
    p, frozen = parameter(backend, A), parameter(backend, B)
    with record({"p": p}):
        assert isinstance(ops.exp(frozen), backend.array_type)
        loss = ops.sum(p * ops.exp(frozen))
    grads = backward(loss)
    np.testing.assert_allclose(backend.to_numpy(grads["p"]), np.exp(B))
    np.testing.assert_array_equal(backend.to_numpy(grads.wrt(frozen)), np.zeros((3, 3)))


def test_value_and_grad(backend: Backend) -> None:
    module = Pair(parameter(backend, A), parameter(backend, B))
    value, grads = value_and_grad(module, module)(2.0)
    assert isinstance(value, backend.array_type)
    np.testing.assert_allclose(backend.to_numpy(value), 2 * A.sum() + B.sum())
    assert set(grads) == {"p", "q.weight"}
    assert all(isinstance(g, backend.array_type) for g in grads.values())


def test_value_and_grad_of_a_constant_and_of_a_parameter(backend: Backend) -> None:
    p = parameter(backend, 2.0)
    value, grads = value_and_grad(lambda: backend.from_numpy(np.asarray(1.0)), {"p": p})()
    assert (float(value), float(grads["p"])) == (1.0, 0.0)
    value, grads = value_and_grad(lambda: p, {"p": p})()
    assert isinstance(value, backend.array_type)
    assert (float(value), float(grads["p"])) == (2.0, 1.0)


def test_value_and_grad_keeps_the_name_of_a_function() -> None:
    def loss() -> None:
        """Documented."""

    assert value_and_grad(loss, {}).__doc__ == checkpoint(loss).__doc__ == "Documented."
    assert not hasattr(value_and_grad(Pair(Parameter(A), Parameter(B)), {}), "p")


def test_a_copied_parameter_is_another_variable() -> None:
    p = Parameter(A)
    q = copy.deepcopy(p)
    with record():
        loss = ops.sum(p * 2.0 + q)
    grads = backward(loss)
    np.testing.assert_array_equal(grads.wrt(p), np.full((3, 3), 2.0))
    np.testing.assert_array_equal(grads.wrt(q), np.ones((3, 3)))


def test_a_gradient_that_nobody_needs_is_not_computed() -> None:
    computed = []

    @op
    def noticing(xp: Any, x1: Any, x2: Any, /) -> Any:
        def gradient(name: str) -> Callable[[], Any]:
            return lambda: computed.append(name) or np.ones(2)

        return x1 + x2, lambda dy: (gradient("first"), gradient("second"))

    p, frozen = Parameter(np.ones(2)), Parameter(np.ones(2))
    with record({"p": p}):
        loss = ops.sum(noticing(np.ones(2), p)) + ops.sum(noticing(p, frozen))
    assert computed == []
    backward(loss)
    assert sorted(computed) == ["first", "second"]


def test_a_rule_of_a_third_party() -> None:
    @op
    def cube(xp: Any, x: Any, /) -> Any:
        return x**3, lambda dy: (dy * 3 * x * x,)

    check_gradient(cube, A)


# --- what is refused -------------------------------------------------------------------------------------


def test_backward_twice_is_refused() -> None:
    p = Parameter(A)
    with record():
        h = ops.exp(p)
        loss = ops.sum(h)
        other = ops.sum(h * 2.0)
    backward(loss)
    for used in (loss, other):
        with pytest.raises(RuntimeError, match="already used by backward"):
            backward(used)


def test_record_in_record_is_refused() -> None:
    with record(), pytest.raises(RuntimeError, match="first derivatives only"), record():
        pass
    with record(), pytest.raises(RuntimeError, match="first derivatives only"):
        value_and_grad(lambda: ops.sum(np.ones(1)), {})()
    with record():  # and nothing is left of the attempts
        pass


def test_only_a_recorded_scalar_can_be_differentiated() -> None:
    p = Parameter(A)
    with record():
        y = ops.exp(p)
    with pytest.raises(ValueError, match=r"the loss has shape \(3, 3\)"):
        backward(y)
    with pytest.raises(TypeError, match="no history"):
        backward(ops.sum(p))
    with pytest.raises(TypeError, match="no history"):
        backward(Tensor(np.ones(())))


def test_gradients_exist_for_parameters_only() -> None:
    p = Parameter(A)
    with record():
        h = ops.exp(p)
        loss = ops.sum(h)
    grads = backward(loss)
    for other in (h, A):
        with pytest.raises(TypeError, match="expected a Parameter"):
            grads.wrt(other)  # type: ignore[arg-type]


def test_an_error_ends_the_recording() -> None:
    with pytest.raises(ZeroDivisionError), record():
        raise ZeroDivisionError
    assert isinstance(ops.exp(Parameter(A)), np.ndarray)


def test_a_checkpoint_returns_one_array() -> None:
    p = Parameter(A)
    with record(), pytest.raises(TypeError, match="got tuple"):
        checkpoint(lambda x: (x, x))(p)


# --- depth, memory, threads ------------------------------------------------------------------------------


def in_a_small_stack(fn: Callable[[], Any]) -> Any:
    """Run `fn` in a thread with a stack of 256 KiB, where recursion in C ends soon."""
    results = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: results.append(fn()))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    return results[0]


def test_a_chain_of_20000_operations_has_a_gradient() -> None:
    def chain() -> float:
        p = Parameter(np.asarray(1.0))
        with record():
            h: Any = p
            for _ in range(20_000):
                h = h + 1.0
            loss = h * h
        return float(backward(loss).wrt(p))

    assert in_a_small_stack(chain) == 2 * 20_001


@pytest.mark.parametrize("function", [lambda h: h + 1.0, ops.tanh, lambda h: ops.concat([h, h])[:1]])
def test_a_chain_of_20000_operations_can_be_dropped(function: Callable[[Any], Any]) -> None:
    def chain() -> bool:
        with record():
            h: Any = Parameter(np.ones(1))
            for _ in range(20_000):
                h = function(h)
        del h
        return gc.collect() >= 0

    assert in_a_small_stack(chain)


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Bytes in use now; `tracemalloc.get_traced_memory()[1]` is the peak."""
    gc.collect()
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


SIZE, LAYERS = 1 << 17, 20
MEGABYTE = SIZE * 8


def scales() -> dict[str, Parameter]:
    return {str(i): Parameter(np.full(SIZE, 0.9)) for i in range(LAYERS)}


def forward(parameters: dict[str, Parameter], x: Any) -> Any:
    for p in parameters.values():
        x = ops.tanh(x * p)
    return ops.sum(x)


def test_backward_frees_as_it_goes(traced: Callable[[], int]) -> None:
    parameters, x = scales(), np.ones(SIZE)
    before = traced()
    with record(parameters):
        loss = forward(parameters, x)
    retained = traced() - before
    assert retained < (LAYERS + 1.5) * MEGABYTE  # one array for each layer, no more
    tracemalloc.reset_peak()
    grads = backward(loss)
    peak = tracemalloc.get_traced_memory()[1] - before
    assert peak < retained + 5 * MEGABYTE  # a gradient for each layer comes, what the layer kept goes
    assert traced() - before < (LAYERS + 0.5) * MEGABYTE
    assert len(grads) == LAYERS


def test_backward_frees_the_history_even_if_the_loss_lives() -> None:
    p = Parameter(A)
    with record():
        h = ops.exp(p)
        kept = weakref.ref(h.data)
        loss = ops.sum(h * h)
        del h
    assert kept() is not None
    backward(loss)
    gc.collect()
    assert kept() is None


def test_a_history_that_is_dropped_is_freed_without_the_garbage_collector() -> None:
    p = Parameter(A)
    gc.disable()
    try:
        with record():
            h = ops.exp(p)
            kept = weakref.ref(h.data)
            loss = ops.sum(h * h)
        del h, loss
        assert kept() is None
    finally:
        gc.enable()


def test_threads_do_not_mix() -> None:
    barrier = threading.Barrier(2, timeout=10)
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        p, other = Parameter(np.asarray(float(number))), Parameter(np.asarray(1.0))
        for _ in range(50):
            barrier.wait()
            with record({"p": p} if number == 1 else {"p": p, "other": other}):
                barrier.wait()
                loss = p * p * other
                barrier.wait()
            grads = backward(loss)
            results[number] = {name: float(g) for name, g in grads.items()}
        barrier.wait()
        assert not isinstance(p * p, Tensor)

    threads = [threading.Thread(target=work, args=(i,)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {1: {"p": 2.0}, 2: {"p": 4.0, "other": 4.0}}


def test_a_new_thread_does_not_record() -> None:
    results: list[Any] = []
    with record():
        thread = threading.Thread(target=lambda: results.append(ops.exp(Parameter(A))))
        thread.start()
        thread.join()
    assert isinstance(results[0], np.ndarray)


# --- checkpoint ------------------------------------------------------------------------------------------


def network(backend: Backend, wrap: Callable[[Any], Any], seed: int = 1) -> tuple[Any, dict[str, Any], Any]:
    """Loss, gradients and generator state of a small network with dropout, each block in `wrap`."""
    parameters = {name: parameter(backend, h) for name, h in (("a", A), ("b", B), ("outer", A + B))}
    rng = Generator(seed, backend)

    def block(weight: Parameter) -> Callable[[Any], Any]:
        return lambda x: ops.dropout(ops.tanh(ops.linear(x, weight)), 0.5, rng=rng)

    def inner(x: Any) -> Any:
        return wrap(block(parameters["b"]))(x) + wrap(block(parameters["a"]))(x)

    def loss(x: Any) -> Any:
        h = parameters["outer"] * x
        h = wrap(block(parameters["a"]))(h) + h
        return ops.sum(ops.square(wrap(inner)(h)))

    value, grads = value_and_grad(loss, parameters)(backend.from_numpy(A))
    return value, grads, rng.state


def test_a_checkpoint_changes_no_bit(backend: Backend) -> None:
    value, grads, state = network(backend, lambda fn: fn)
    value2, grads2, state2 = network(backend, checkpoint)
    assert np.array_equal(backend.to_numpy(value), backend.to_numpy(value2))
    assert state == state2
    for name, g in grads.items():
        np.testing.assert_array_equal(backend.to_numpy(g), backend.to_numpy(grads2[name]), err_msg=name)
    other, _, _ = network(backend, checkpoint, seed=2)
    assert not np.array_equal(backend.to_numpy(value), backend.to_numpy(other))  # dropout does something


def test_a_checkpoint_remembers_less(traced: Callable[[], int]) -> None:
    def run(wrap: Callable[[Any], Any]) -> tuple[int, dict[str, Any]]:
        parameters = scales()
        parts = [dict(list(parameters.items())[i : i + 5]) for i in range(0, LAYERS, 5)]

        def layers(part: dict[str, Parameter]) -> Callable[[Any], Any]:
            def apply(x: Any) -> Any:
                for p in part.values():
                    x = ops.tanh(x * p)
                return x

            return wrap(apply)

        before = traced()
        tracemalloc.reset_peak()
        with record(parameters):
            x: Any = np.ones(SIZE)
            for part in parts:
                x = layers(part)(x)
            loss = ops.sum(x)
        retained = traced() - before
        return retained, dict(backward(loss))

    plain, grads = run(lambda fn: fn)
    less, grads2 = run(checkpoint)
    assert less < plain / 3  # four arrays at the ends of the parts, and x, instead of twenty
    assert all(np.array_equal(grads[name], grads2[name]) for name in grads)


def test_a_checkpoint_outside_record_is_the_function_itself(backend: Backend) -> None:
    y = checkpoint(ops.exp)(parameter(backend, A))
    assert isinstance(y, backend.array_type)


@pytest.mark.parametrize(
    "fn",
    [
        lambda h: checkpoint(lambda x: x)(h),
        lambda h: checkpoint(lambda x: x * h)(h),
        lambda h: checkpoint(lambda: ops.exp(h))(),
        lambda h: checkpoint(lambda pair: pair[0] * pair[1])([h, h]),
        lambda h: checkpoint(lambda x, *, scale: x * scale)(h, scale=h),
        lambda h: checkpoint(lambda x: x * h)(h) * h + checkpoint(lambda: h * h)(),
        lambda h: checkpoint(lambda x: stop_gradient(x) * x)(h),
        lambda h: checkpoint(lambda x: checkpoint(lambda y: checkpoint(ops.exp)(y) * h)(x) * h)(h),
        lambda h: h + checkpoint(lambda: np.ones((3, 3)))(),
    ],
    ids=[
        "identity",
        "closure",
        "no argument",
        "list",
        "keyword",
        "used again",
        "stopped",
        "nested",
        "constant",
    ],
)
def test_a_checkpoint_reaches_what_it_closes_over(fn: Callable[[Any], Any], monkeypatch: Any) -> None:
    def run() -> tuple[Any, Any]:
        p = Parameter(A)
        with record():
            loss = ops.sum(ops.sin(fn(ops.square(p))))
        return loss.data, backward(loss).wrt(p)

    checkpointed = run()
    monkeypatch.setitem(globals(), "checkpoint", lambda fn: fn)
    plain = run()
    np.testing.assert_array_equal(checkpointed[0], plain[0])
    np.testing.assert_allclose(checkpointed[1], plain[1], rtol=1e-14)


def test_a_checkpoint_respects_what_is_frozen() -> None:
    p, frozen = Parameter(A), Parameter(B)
    with record({"p": p}):
        loss = ops.sum(checkpoint(lambda x: x * p * frozen)(np.ones((3, 3))))
    grads = backward(loss)
    np.testing.assert_array_equal(grads["p"], B)
    np.testing.assert_array_equal(grads.wrt(frozen), np.zeros((3, 3)))


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert minidiff.__version__ == version("minidiff")
    with pytest.raises(AttributeError, match="nothing"):
        minidiff.nothing  # noqa: B018
