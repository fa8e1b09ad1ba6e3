"""Depth, memory and threads of backpropagation, and checkpoints, which trade memory for time."""

from __future__ import annotations

import _thread
import functools
import gc
import signal
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minidiff import Parameter, Tensor, backward, checkpoint, ops, record, stop_gradient, value_and_grad
from minidiff.backend import Backend
from minidiff.random import Generator

RNG = np.random.default_rng(0)
A = RNG.uniform(0.5, 2.0, (3, 3))
B = RNG.uniform(0.5, 2.0, (3, 3))


def parameter(backend: Backend, host: Any) -> Parameter:
    return Parameter(backend.from_numpy(np.asarray(host, np.float64)))


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


def test_ctrl_c_while_a_history_is_dropped_keeps_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python cannot raise it out of there; but memory must not grow from then on."""

    class Interrupt:
        __del__ = staticmethod(_thread.interrupt_main)  # no code of Python's: it arrives in the loop

    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: ignored.append(what.exc_type))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with record():
            h: Any = Parameter(A)
            for i in range(9):
                h = h + 1.0
                if i == 5:
                    h.node.pull = functools.partial(lambda _, pull, dy: pull(dy), Interrupt(), h.node.pull)
        del h
    finally:
        signal.signal(signal.SIGINT, before)
    assert ignored == [KeyboardInterrupt]
    with record():
        h = ops.exp(Parameter(A))
        kept = weakref.ref(h.data)
        loss = ops.sum(h * h)
    del h, loss
    assert kept() is None


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

            wrapped: Callable[[Any], Any] = wrap(apply)
            return wrapped

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
        assert isinstance(loss.data, np.ndarray)
        return loss.data, backward(loss).wrt(p)

    checkpointed = run()
    monkeypatch.setitem(globals(), "checkpoint", lambda fn: fn)
    plain = run()
    np.testing.assert_array_equal(checkpointed[0], plain[0])
    np.testing.assert_allclose(checkpointed[1], plain[1], rtol=1e-14)


def test_a_checkpoint_of_the_identity_wraps_once() -> None:
    p = Parameter(A)
    with record():
        y = checkpoint(lambda x: x)(p)
    assert isinstance(y, Tensor)
    assert isinstance(y.data, np.ndarray)


def test_a_checkpoint_respects_what_is_frozen() -> None:
    p, frozen = Parameter(A), Parameter(B)
    with record({"p": p}):
        loss = ops.sum(checkpoint(lambda x: x * p * frozen)(np.ones((3, 3))))
    grads = backward(loss)
    np.testing.assert_array_equal(grads["p"], B)
    np.testing.assert_array_equal(grads.wrt(frozen), np.zeros((3, 3)))
