"""Processes, threads and signals: a child works on memory and lanes of its own, and Ctrl-C leaves nothing at work."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff_numpy import lanes
from tests.test_lanes import each, run

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@forks
def test_a_forked_child_and_its_parent_write_to_memory_of_their_own() -> None:
    code = """
import os
from minidiff_numpy.memory import empty
x, (ready, go) = empty((1 << 20,)), os.pipe()
x[...] = 1
child = os.fork()
if child == 0:
    x[...] = 2
    y = empty((1 << 20,))
    y[...] = 3
    os.read(ready, 1)
    os._exit(0 if (y == 3).all() else 1)
y = empty((1 << 20,))
y[...] = 4
os.write(go, b"!")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), set(x.tolist()), set(y.tolist()))
"""
    assert run(code) == "0 {1.0} {4.0}"


@forks
def test_a_child_is_forked_while_another_thread_asks_for_memory() -> None:
    code = """
import os, signal, threading
from minidiff_numpy import memory
held, leave = threading.Event(), threading.Event()

def hold():
    with memory._pool._lock:
        held.set()
        leave.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    memory.empty((1 << 20,))[...] = 1
    os._exit(0)
leave.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == "0"


@forks
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_processes_draw_what_their_parent_draws(how: str, tmp_path: Path) -> None:
    """After the parent has computed, with lanes and memory that its children inherit; at the same time."""
    program = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from minidiff import Generator, ops
from minidiff.diffusion import GaussianDiffusion
from minidiff.models import UNet
from minidiff_numpy import lanes

def draw(seed, model):
    lanes.set_num_threads(2)
    lanes._WORTH = 0
    return GaussianDiffusion().sample(model, (8, 1, 32, 32), steps=2, rng=Generator(seed)).tobytes()

if __name__ == "__main__":
    model = UNet(1, 8, 1, rng=Generator(0))
    expected = [draw(seed, model) for seed in range(3)]
    with ProcessPoolExecutor(2, mp_context=get_context(sys.argv[1])) as pool:
        found = [pool.submit(draw, seed, model) for seed in range(3)]
        mine = [draw(seed, model) for seed in range(3)]
        print(expected == mine == [f.result(timeout=50) for f in found])
"""
    path = tmp_path / "program.py"
    path.write_text(program)
    done = subprocess.run([sys.executable, path, how], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "True"


def interrupted(after: float) -> threading.Thread:
    """Ctrl-C in a moment, for the main thread."""
    thread = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    thread.start()
    return thread


@pytest.mark.skipif(os.name == "nt", reason="signals come otherwise there")
def test_ctrl_c_waits_for_the_lanes_which_take_no_more_work() -> None:
    """Whoever goes on after it, in a notebook, finds buffers and results that nobody writes to any more."""
    before, main, handler = lanes.count(), threading.current_thread(), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told the tests to ignore it
    lanes.set_num_threads(2)
    both, begun, ended = threading.Barrier(2, timeout=20), [], []

    def work(i: int) -> None:
        begun.append(i)
        both.wait()
        if threading.current_thread() is not main:  # the caller has nothing to do meanwhile, and waits
            time.sleep(0.1)
            interrupted(0).join()
            time.sleep(0.2)
        ended.append(i)

    try:
        with pytest.raises(KeyboardInterrupt):
            each(work, range(2))
        assert sorted(begun) == sorted(ended) == [0, 1]
        with pytest.raises(KeyboardInterrupt):
            each(lambda i: time.sleep(0.001) if i else interrupted(0), range(100_000))
        each(ended.append, [2, 3])
        assert sorted(ended) == [0, 1, 2, 3]
    finally:
        signal.signal(signal.SIGINT, handler)
        lanes.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_keeps_no_arrays(threads: int) -> None:
    """Whoever catches a MemoryError and tries a smaller batch needs what the larger one took."""
    before = lanes.count()
    lanes.set_num_threads(threads)

    def attempt() -> weakref.ref[np.ndarray[Any, Any]]:
        large = np.ones(9)

        def work(i: int) -> None:
            if large[i]:
                raise MemoryError

        with contextlib.suppress(MemoryError):
            each(work, range(9))
        return weakref.ref(large)

    gc.disable()
    try:
        assert attempt()() is None
    finally:
        gc.enable()
        lanes.set_num_threads(before)


def test_a_system_that_gives_no_threads_still_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Because there are too many of them, or because the interpreter is about to end."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before, done = lanes.count(), []
    lanes.set_num_threads(3)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        each(done.append, range(9))
    lanes.set_num_threads(before)
    assert done == list(range(9))
