"""Lanes: every item once, the same bits always, and nothing of the caller's changed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from minidiff import Generator, ops, value_and_grad
from minidiff.models import UNet
from minidiff_numpy import lanes


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = lanes.count()
    lanes.set_num_threads(request.param)
    yield request.param
    lanes.set_num_threads(before)


def each(work: Any, items: Any) -> None:
    """As if there were much to do."""
    lanes.each(work, items, multiplications=10**12)


def blas_threads() -> list[int]:
    """Of NumPy's own BLAS; SciPy and PyTorch bring others."""
    libraries = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
    return [lib.num_threads for lib in libraries if "numpy" in lib.filepath]


def test_every_item_once(threads: int) -> None:
    done: list[int] = []
    each(done.append, range(200))
    assert sorted(done) == list(range(200))
    each(done.append, [])


def test_lanes_work_at_the_same_time(threads: int) -> None:
    barrier = threading.Barrier(threads)
    each(lambda _: barrier.wait(timeout=60), range(threads))


def test_little_work_is_done_by_the_caller(threads: int) -> None:
    seen: list[threading.Thread] = []

    def work(_: int) -> None:
        time.sleep(0.002)  # long enough for another lane to take the next
        seen.append(threading.current_thread())

    lanes.each(work, range(9), multiplications=10)
    assert set(seen) == {threading.current_thread()}


def test_blas_has_one_thread_inside_and_its_own_count_after(threads: int) -> None:
    before, inside = blas_threads(), []
    each(lambda _: inside.append(max(blas_threads())), range(4))
    assert set(inside) == {1}
    assert blas_threads() == before


def test_blas_does_what_other_threads_ask_of_it(threads: int) -> None:
    """threadpoolctl gives it to the first thread that asks, and lets others ask in vain until that gives it back."""
    with threadpool_limits(1, user_api="blas"):
        pass  # whatever ran before may not have given it back; this does
    each(lambda _: None, range(4))
    seen: list[list[int]] = []

    def elsewhere() -> None:
        each(lambda _: seen.append(blas_threads()), [0])
        for limit in (2, 1):
            with threadpool_limits(limit, user_api="blas"):
                seen.append(blas_threads())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [[1], [2], [1]]


@pytest.mark.parametrize("layer", ["pthreads", "of another kind"])
def test_blas_is_asked_directly_or_through_threadpoolctl(layer: str) -> None:
    (lib,) = [lib for lib in ThreadpoolController().lib_controllers if "numpy" in lib.filepath]
    lib.threading_layer = layer
    threads, set_threads = lanes._getter_and_setter(lib)
    seen: list[int] = []

    def ask() -> None:
        for number in (1, 2, before):
            set_threads(number)
            seen.append(threads())

    before = threads()
    ask()
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == 2 * [1, 2, before] == 2 * [1, 2, blas_threads()[0]]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinities")
def test_the_caller_keeps_its_cores(threads: int) -> None:
    before = os.sched_getaffinity(0)
    each(lambda _: None, range(4))
    assert os.sched_getaffinity(0) == before


def test_errors_reach_the_caller_and_lanes_go_on(threads: int) -> None:
    def work(i: int) -> None:
        if i == 3:
            raise ArithmeticError("three")

    before = blas_threads()
    with pytest.raises(ArithmeticError, match="three"):
        each(work, range(9))
    assert blas_threads() == before
    done: list[int] = []
    each(done.append, range(3))
    assert sorted(done) == [0, 1, 2]


def test_calls_from_lanes_and_from_many_threads(threads: int) -> None:
    total = np.zeros((8, 10, 5))

    def inner(i: int, j: int) -> None:
        each(lambda k: total.__setitem__((i, j, k), 1 + total[i, j, k]), range(5))

    def outer(i: int) -> None:
        each(lambda j: inner(i, j), range(10))

    callers = [threading.Thread(target=outer, args=(i,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (total == 1).all()


def test_context_reaches_lanes(threads: int) -> None:
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        each(lambda _: np.ones(3) / np.zeros(3), range(4))


@pytest.fixture
def everything_on_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_WORTH", 0)


def step(seed: int = 0) -> tuple[Any, dict[str, Any]]:
    model = UNet(1, 8, 1, rng=Generator(seed))
    x = Generator(1).normal((5, 1, 12, 8))
    value, grads = value_and_grad(lambda: ops.mse_loss(model(x, 7), x), model)()
    return value, grads


@pytest.mark.usefixtures("everything_on_lanes")
def test_the_same_bits_every_time(threads: int) -> None:
    value, grads = step()
    for _ in range(3):
        again, others = step()
        assert again == value
        assert all(np.array_equal(grads[name], others[name]) for name in grads)


@pytest.mark.usefixtures("everything_on_lanes")
def test_results_do_not_depend_on_the_number_of_lanes_beyond_rounding(threads: int) -> None:
    value, grads = step()
    lanes.set_num_threads(4)
    other, others = step()
    np.testing.assert_allclose(value, other, rtol=1e-6)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, others[name], rtol=1e-4, atol=1e-6 * max(1, np.abs(grad).max()))


def test_a_buffer_is_used_again_and_is_one_threads_own() -> None:
    first = lanes.scratch(1, (4, 5))
    assert np.shares_memory(first, lanes.scratch(1, (3,)))
    assert np.shares_memory(first, lanes.scratch(1, (3,), np.float64))
    assert not np.shares_memory(first, lanes.scratch(0, (4, 5)))
    other: list[np.ndarray[Any, Any]] = []
    thread = threading.Thread(target=lambda: other.append(lanes.scratch(1, (4, 5))))
    thread.start()
    thread.join()
    assert not np.shares_memory(first, other[0])


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_number_of_lanes() -> None:
    code = "from minidiff_numpy import lanes; print(lanes.count())"
    assert run(code, MINIDIFF_NUM_THREADS="5") == "5"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert run(code, MINIDIFF_NUM_THREADS="") == str(cores)
    with pytest.raises(subprocess.CalledProcessError) as failure:
        run(code, MINIDIFF_NUM_THREADS="two")
    assert "must be a whole number, got 'two'" in failure.value.stderr
    with pytest.raises(ValueError, match="at least 1 thread is needed, got 0"):
        lanes.set_num_threads(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_lanes_of_its_own() -> None:
    code = """
import os
from minidiff_numpy import lanes
lanes.set_num_threads(2)
done = []
lanes.each(done.append, range(4), multiplications=10**12)
child = os.fork()
if child == 0:
    lanes.each(done.append, range(4), multiplications=10**12)
    os._exit(0 if sorted(done) == [0, 0, 1, 1, 2, 2, 3, 3] else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == "0"
