"""Memory that is used again: never while somebody looks at it, and hardly more than was in use at one time."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minidiff_numpy import memory

Array = np.ndarray[Any, Any]
SIZE = 1 << 18  # elements of float32: a megabyte


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> memory._Pool:
    fresh = memory._Pool()
    monkeypatch.setattr(memory, "_pool", fresh)
    return fresh


def address(x: Array) -> int:
    return int(x.ctypes.data)


def test_memory_is_used_again_when_the_last_view_has_gone(pool: memory._Pool) -> None:
    x = memory.empty((512, 512))
    assert x.shape == (512, 512)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert x.flags.writeable
    x[...] = 1
    where = address(x)
    view = x.T.reshape(4, -1)[1:]  # a copy, and not a view: it holds nothing
    view = x.T[3:, ::2]
    del x
    other = memory.empty((512, 512))
    other[...] = 2
    assert address(other) != where
    assert (view == 1).all()
    del view
    assert address(memory.empty((256, 1024))) == where
    assert pool.lent == other.nbytes


def test_small_arrays_are_numpys_own(pool: memory._Pool) -> None:
    assert memory.empty((3, 5), np.float64).flags.owndata
    assert memory.empty((0, 5)).shape == (0, 5)
    assert memory.empty(()).shape == ()
    assert pool.lent == 0


def test_what_waits_is_bounded_by_what_was_lent_at_one_time(pool: memory._Pool) -> None:
    held = [memory.empty((SIZE,)) for _ in range(8)]
    most = pool.lent
    held.clear()
    assert pool.waiting == most
    for n in range(SIZE, 2 * SIZE, 1000):  # sizes that are never asked for again
        memory.empty((n,))
        assert pool.lent == 0
        assert pool.waiting <= memory._MOST * most
    assert pool.most == most


def test_sizes_that_are_asked_for_stay(pool: memory._Pool) -> None:
    several = [memory.empty((SIZE + 1000 * i,)) for i in range(4)]
    del several
    wanted = address(memory.empty((SIZE,)))
    for i in range(100):
        memory.empty((2 * SIZE + 1000 * i,))
        assert address(memory.empty((SIZE,))) == wanted


def test_blocks_return_from_other_threads_and_in_the_middle_of_a_collection(pool: memory._Pool) -> None:
    class Circle:
        def __init__(self) -> None:
            self.array, self.itself = memory.empty((SIZE,)), self

    seen = weakref.ref(Circle())
    gc.collect()
    assert seen() is None
    assert pool.lent == 0

    def work() -> None:
        for i in range(300):
            x = memory.empty((SIZE + i % 7,))
            x[0] = x[-1] = i
            y = memory.empty((SIZE,))
            y[0] = -1
            assert x[0] == x[-1] == i

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.lent == 0
    assert pool.waiting == sum(b.size for same in pool._waiting.values() for b in same)


def orders(shape: tuple[int, ...]) -> Iterator[Array]:
    for axes in itertools.permutations(range(len(shape))):
        yield np.empty([shape[i] for i in axes], np.float32).transpose(np.argsort(axes))


def test_empty_like_keeps_the_order_of_axes_and_closes_gaps() -> None:
    for x in orders((64, 3, 40, 50)):
        y = memory.empty_like(x)
        assert y.shape == x.shape
        assert y.strides == x.strides
        assert memory.empty_like(x[:, :2, ::2]).strides == np.empty_like(x[:, :2, ::2]).strides
    x = np.empty((512, 1024), np.float32)[::-1]
    assert memory.empty_like(x).strides == (4096, 4)
