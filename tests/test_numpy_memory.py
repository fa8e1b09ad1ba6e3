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


def lent(pool: memory._Pool) -> int:
    """Bytes in use; gaps are in order, apart from each other, and inside."""
    total = 0
    pool.settle()
    for chunk in pool.chunks:
        edges = [edge for gap in chunk.gaps for edge in gap]
        assert all(a < b for a, b in itertools.pairwise(edges))
        assert not edges or (edges[0] >= 0 and edges[-1] <= chunk.bytes.size)
        total += chunk.bytes.size - sum(end - begin for begin, end in chunk.gaps)
    return total


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
    assert lent(pool) == other.nbytes


def test_small_arrays_are_numpys_own(pool: memory._Pool) -> None:
    assert memory.empty((3, 5), np.float64).flags.owndata
    assert memory.empty((0, 5)).shape == (0, 5)
    assert memory.empty(()).shape == ()
    assert lent(pool) == 0


def test_neighbours_that_have_gone_make_room_for_a_larger_array(pool: memory._Pool) -> None:
    arrays = [memory.empty((SIZE,)) for _ in range(5)]
    first = address(arrays[1])
    for i in (1, 3, 2):  # from the left, from the right, between two gaps
        arrays[i] = np.empty(0)
    wide = memory.empty((3 * SIZE,))
    assert address(wide) == first
    assert len(pool.chunks) == 1


def test_no_two_arrays_share_memory_and_the_first_gap_is_taken(
    pool: memory._Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CHUNK", 1 << 23)
    rng = np.random.default_rng(0)
    held: dict[int, Array] = {}
    most = 0
    for i in range(2000):
        x = memory.empty((int(rng.integers(1 << 16, 1 << 20)),))
        x[...] = i
        held[i] = x
        del x
        most = max(most, lent(pool))
        for key in rng.choice(list(held), size=int(rng.integers(0, 3))):
            if len(held) > 12 and key in held:
                assert (held[key] == key).all()
                del held[key]
    assert lent(pool) == sum(-(-x.nbytes // 4096) * 4096 for x in held.values())
    assert sum(c.bytes.size for c in pool.chunks) < 2 * most
    held.clear()
    assert lent(pool) == 0
    assert all(chunk.gaps == [(0, chunk.bytes.size)] for chunk in pool.chunks)


def test_memory_may_return_at_any_moment(pool: memory._Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected in the middle of anything: here, of the search for a gap."""
    held = [memory.empty((SIZE,)) for _ in range(6)]
    take = memory._Chunk.take

    def interrupted(chunk: memory._Chunk, size: int) -> int | None:
        held.pop()
        return take(chunk, size)

    monkeypatch.setattr(memory._Chunk, "take", interrupted)
    arrays = [memory.empty((SIZE // 2,)) for _ in range(4)]
    for i, x in enumerate(arrays):
        x[...] = i
    assert all((x == i).all() for i, x in enumerate(arrays))
    assert lent(pool) == 2 * 4 * SIZE + 4 * 2 * SIZE


def test_an_array_larger_than_a_chunk(pool: memory._Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CHUNK", 1 << 20)
    x = memory.empty((SIZE + 1,))
    x[...] = 1
    assert lent(pool) == 4 * SIZE + 4096
    with pytest.raises(MemoryError, match="no memory for an array of 1125899907 MB"):
        memory.empty((1 << 48,), np.float32)
    assert lent(pool) == 4 * SIZE + 4096


def test_blocks_return_from_other_threads_and_in_the_middle_of_a_collection(pool: memory._Pool) -> None:
    class Circle:
        def __init__(self) -> None:
            self.array, self.itself = memory.empty((SIZE,)), self

    seen = weakref.ref(Circle())
    gc.collect()
    assert seen() is None
    assert lent(pool) == 0

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
    assert lent(pool) == 0


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
