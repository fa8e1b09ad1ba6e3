"""Whether the device over host memory is as hard on CuPy's users as CUDA is."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import cupy
import numpy as np
import pytest
from cupy_backends.cuda.api.driver import CUDADriverError
from cupy_backends.cuda.api.runtime import CUDARuntimeError

from minidiff_cupy.gpu import GPU
from tests.hostcuda import memory, streams


@pytest.fixture
def stream() -> Iterator[cupy.cuda.Stream]:
    """One that runs beside the default stream."""
    made = cupy.cuda.Stream(non_blocking=True)
    yield made
    made.synchronize()


def test_another_stream_has_not_come_as_far(stream: cupy.cuda.Stream) -> None:
    x = cupy.zeros(4)
    cupy.cuda.Device().synchronize()
    with stream:
        x += 1
    assert x.get().tolist() == [0.0] * 4
    with stream:
        assert x.get().tolist() == [1.0] * 4


def test_a_stream_waits_for_an_event_of_another(stream: cupy.cuda.Stream) -> None:
    x, event = cupy.zeros(4), cupy.cuda.Event()
    cupy.cuda.Device().synchronize()
    with stream:
        x += 1
        event.record()
        x += 1
    assert not event.done
    cupy.cuda.get_current_stream().wait_event(event)
    assert x.get().tolist() == [1.0] * 4
    assert event.done


def test_pinned_memory_is_read_later() -> None:
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(32), np.float64, 4)
    pinned[:] = 1
    x = cupy.empty(4)
    x.set(pinned, stream=cupy.cuda.get_current_stream())
    pinned[:] = 2
    assert x.get().tolist() == [2.0] * 4


def test_a_captured_stream_takes_no_numbers_of_the_host(stream: cupy.cuda.Stream) -> None:
    x, host = cupy.zeros(4), np.ones(4)
    cupy.cuda.Device().synchronize()
    copies = (x.data.ptr, host.ctypes.data, 1), (host.ctypes.data, x.data.ptr, 2)
    for to, from_, kind in copies:
        with stream:
            stream.begin_capture()
            with pytest.raises(CUDARuntimeError, match="Unsupported"):
                cupy.cuda.runtime.memcpyAsync(to, from_, 32, kind, stream.ptr)
            with pytest.raises(CUDARuntimeError, match="Invalidated"):
                stream.end_capture()


def test_nobody_waits_for_a_captured_stream(stream: cupy.cuda.Stream) -> None:
    waits = stream.synchronize, cupy.cuda.Device().synchronize, cupy.cuda.Event().synchronize
    for wait in waits:
        with stream:
            stream.begin_capture()
            with pytest.raises(CUDARuntimeError, match="Unsupported"):
                wait()
            with pytest.raises(CUDARuntimeError, match="Invalidated"):
                stream.end_capture()


def test_a_launch_beside_the_captured_stream_is_refused(stream: cupy.cuda.Stream) -> None:
    x = cupy.zeros(4)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
    with pytest.raises(CUDARuntimeError, match="Unsupported"):
        x += 1
    with stream, pytest.raises(CUDARuntimeError, match="Invalidated"):
        stream.end_capture()


def test_a_graph_needs_its_memory(stream: cupy.cuda.Stream) -> None:
    pool = cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        x = cupy.empty(4)
        stream.begin_capture()
        x[...] = 3
        graph = stream.end_capture()
        graph.launch(stream)
        assert x.get().tolist() == [3.0] * 4
        del x
        gc.collect()
        pool.free_all_blocks()
        graph.launch(stream)
        with pytest.raises(RuntimeError, match="memory that was freed: blocks of 512 bytes"):
            stream.synchronize()


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [((1, 65536), (32,), 0), ((1,), (1, 1, 128), 0), ((1,), (64, 32), 0), ((1,), (32,), 228 * 1024)],
)
def test_launches_beyond_the_limits_are_refused(
    grid: tuple[int, ...], block: tuple[int, ...], shared: int
) -> None:
    y, x, sizes = cupy.empty(1, np.float32), cupy.ones(1, np.float32), map(np.int32, (1, 1, 1, 1))
    kernel = GPU().load("sums.cu", "sum_columns<float, float>", ())
    with pytest.raises(CUDADriverError, match="INVALID_VALUE"):
        kernel(grid, block, (y, x, *sizes), shared_mem=shared)


def test_shared_memory_is_asked_for() -> None:
    y, x, sizes = cupy.empty(1, np.float32), cupy.ones(1, np.float32), map(np.int32, (1, 1, 1, 1))
    kernel = GPU().load("sums.cu", "sum_columns<float, float>", ())
    kernel((1,), (32, 16), (y, x, *sizes), shared_mem=227 * 1024)
    assert y.get().tolist() == [1.0]


def test_memory_is_limited() -> None:
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(memory.TOTAL + 1, np.uint8)


def test_what_the_host_waits_for_is_written_down() -> None:
    x = cupy.zeros(4)
    streams.waits.clear()
    x += 1
    assert streams.waits == []
    assert float(x.sum()) == 4
    assert streams.waits
