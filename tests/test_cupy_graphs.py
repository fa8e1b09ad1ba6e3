"""`Backend.compile` on CUDA: what a tape of launches replays, and what is asked of CuPy."""

from __future__ import annotations

import logging
import operator
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, inference, ops, precision
from minidiff.backend import Backend, get_backend
from minidiff.models import UNet
from minidiff_cupy import engine
from minidiff_cupy.allocation import explained
from minidiff_cupy.graphs import StreamRecorder, compiler
from tests.simt.graphs import Tape, normal, same

# --- functions -------------------------------------------------------------------------------------------


def test_a_network_is_captured_once_for_each_shape(compiled: Backend, tapes: list[Tape]) -> None:
    model = UNet(1, 2, 1, num_classes=3, attention=True, rng=Generator(0, compiled))
    called = []

    def network(x: Any, t: Any, labels: Any) -> Any:
        called.append(len(x))
        return model(x, t, labels=labels)

    fast = compiled.compile(network)
    with inference():
        for step, n in enumerate((2, 2, 2, 1, 2, 1, 1, 2)):
            x = normal(compiled, step, n, 1, 4, 4)
            t, labels = (compiled.from_numpy(np.arange(n) + k) for k in (40 * step, step % 2))
            same(compiled, fast(x, t, labels), model(x, t, labels=labels))
    assert called == [2, 2, 1, 1]
    assert [tape.played for tape in tapes] == [4, 2]


def test_a_result_is_not_touched_by_the_next_call(compiled: Backend, tapes: list[Tape]) -> None:
    fast = compiled.compile(lambda x: (ops.negative(x), {"double": ops.add(x, x)}, None))
    results = []
    for seed in range(4):
        x = normal(compiled, seed, 3, 5)
        results.append(fast(x))
        x[...] = 0.0
    for seed, (x, others, nothing) in enumerate(results):
        same(compiled, x, -normal(compiled, seed, 3, 5))
        same(compiled, others["double"], 2 * normal(compiled, seed, 3, 5))
        assert nothing is None
    assert [tape.played for tape in tapes] == [3]


def test_arguments_are_not_written_to(compiled: Backend, tapes: list[Tape]) -> None:
    fast = compiled.compile(lambda x: ops.negative(x))
    given = [normal(compiled, seed, 3, 5) for seed in range(4)]
    for x in given:
        fast(x)
    for seed, x in enumerate(given):
        same(compiled, x, normal(compiled, seed, 3, 5))
    assert [tape.played for tape in tapes] == [3]


def test_what_decides_the_launches_is_the_key(compiled: Backend, tapes: list[Tape]) -> None:
    def scaled(arrays: dict[str, list[Any]], by: float) -> Any:
        return ops.multiply(ops.concat(arrays["x"], axis=0), by)

    fast = compiled.compile(scaled)
    x = normal(compiled, 0, 2, 3, 4, 5)
    turned = ops.permute_dims(normal(compiled, 1, 2, 4, 5, 3), (0, 3, 1, 2))
    calls: list[tuple[Any, float]] = [
        ([x], 2),
        ([x], 3),
        ([x], 3.0),
        ([turned], 2),
        ([x, x], 2),
        ([ops.astype(x, "float16")], 2),
    ]
    for _ in range(3):
        for arrays, by in calls:
            y, expected = fast({"x": arrays}, by), scaled({"x": arrays}, by)
            same(compiled, y, expected)
            assert y.dtype == expected.dtype
            assert y.strides == expected.strides
    assert [tape.played for tape in tapes] == [2] * len(calls)


def test_names_are_part_of_the_key(compiled: Backend, tapes: list[Tape]) -> None:
    fast = compiled.compile(lambda arrays: ops.subtract(arrays["x"], arrays["y"]))
    x, y = normal(compiled, 0, 4), normal(compiled, 1, 4)
    for _ in range(3):
        same(compiled, fast({"x": x, "y": y}), x - y)
        same(compiled, fast({"y": x, "x": y}), y - x)
    assert [tape.played for tape in tapes] == [2, 2]


def test_precision_is_part_of_the_key(compiled: Backend, tapes: list[Tape]) -> None:
    weight = normal(compiled, 1, 16, 16)
    fast = compiled.compile(lambda x: ops.linear(x, weight, None))
    x = normal(compiled, 0, 16, 16)
    results = {}
    for mode in ("fast", "exact") * 3:
        with precision(mode):
            results[mode] = compiled.to_numpy(fast(x))
    assert [tape.played for tape in tapes] == [2, 2]
    assert (results["fast"] != results["exact"]).any()


def test_inside_another_function_it_is_a_part_of_that(compiled: Backend, tapes: list[Tape]) -> None:
    inner = compiled.compile(lambda x: ops.add(x, x))
    outer = compiled.compile(lambda x: ops.multiply(inner(x), 3.0))
    for seed in range(4):
        x = normal(compiled, seed, 4)
        same(compiled, outer(x), 6 * x)
    assert [tape.played for tape in tapes] == [3]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: ops.multiply(x, float(ops.sum(x))), "between host and device"),
        (lambda x: ops.add(x, ops.asarray(np.ones(4, np.float32), device="simt")), "between host and device"),
        (lambda x: ops.add(x, Generator(1, "simt").normal(4)), "the same at every replay"),
        (lambda x: ops.add(x, Generator(1, "simt").uniform(4)), "the same at every replay"),
        (lambda x: (x, x.shape[0]), "it returns a int"),
    ],
)
def test_what_cannot_be_captured_runs_as_it_is(
    compiled: Backend,
    tapes: list[Tape],
    caplog: pytest.LogCaptureFixture,
    function: Callable[..., Any],
    reason: str,
) -> None:
    fast = compiled.compile(function)
    with caplog.at_level(logging.WARNING, "minidiff_cupy"):
        for seed in range(4):
            x = normal(compiled, seed, 4)
            result, expected = fast(x), function(x)
            first = (result, expected) if not isinstance(result, tuple) else (result[0], expected[0])
            same(compiled, *first)
    assert [tape.played for tape in tapes] == [0]
    assert len(caplog.records) == 1
    assert reason in caplog.text


def test_an_error_is_the_functions_own(compiled: Backend) -> None:
    fast = compiled.compile(lambda x: ops.reshape(x, (7,)))
    for _ in range(3):
        with pytest.raises(ValueError, match="reshape"):
            fast(normal(compiled, 0, 4))


# --- CuPy ------------------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    """Stands for `cupy.cuda.runtime.CUDARuntimeError`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    """Stands for `cupy.cuda.memory.OutOfMemoryError`."""


NO_MEMORY = 2


@pytest.fixture
def cupy() -> Any:
    """A CuPy that writes down what it is asked for."""
    log: list[Any] = []

    class Stream:
        def __init__(self, *, non_blocking: bool) -> None:
            assert non_blocking

        def __enter__(self) -> None:
            log.append("stream")

        def __exit__(self, *_: object) -> None:
            log.append("stream left")

        def begin_capture(self) -> None:
            log.append("begin")

        def end_capture(self) -> Any:
            log.append("end")
            if fake.broken:
                raise CUDARuntimeError(901)
            return types.SimpleNamespace(launch=lambda: log.append("launch"))

    class MemoryPool:
        def __init__(self, allocator: Any) -> None:
            self.malloc = allocator

        def free_all_blocks(self) -> None: ...

    @contextmanager
    def using_allocator(allocator: Any) -> Iterator[None]:
        log.append("allocator")
        fake.malloc = allocator
        yield
        log.append("allocator left")

    def memory(size: int) -> int:
        if fake.status:
            raise CUDARuntimeError(fake.status)
        return size

    pool = types.SimpleNamespace(free_all_blocks=lambda: log.append("free"))
    cuda = types.SimpleNamespace(
        Stream=Stream,
        MemoryPool=MemoryPool,
        using_allocator=using_allocator,
        Memory=memory,
        MemoryPointer=lambda memory, offset: (memory, offset),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=types.SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            memGetInfo=lambda: (1_000, 80_000),
        ),
    )
    fake = types.SimpleNamespace(
        cuda=cuda, log=log, broken=False, status=0, get_default_memory_pool=lambda: pool
    )
    return fake


def test_capture_by_cupy(cupy: Any) -> None:
    def fn() -> str:
        cupy.log.append("fn")
        assert cupy.malloc(512) == (512, 0)
        return "result"

    launch, result = StreamRecorder(cupy).capture(fn)
    assert result == "result"
    assert cupy.log == ["free", "stream", "allocator", "begin", "fn", "end", "allocator left", "stream left"]
    launch()
    assert cupy.log[-1] == "launch"


@pytest.mark.parametrize("broken", [False, True])
def test_a_capture_that_fails_is_ended(cupy: Any, broken: bool) -> None:
    cupy.broken = broken
    with pytest.raises(ZeroDivisionError):
        StreamRecorder(cupy).capture(lambda: 1 / 0)
    assert cupy.log[3:5] == ["begin", "end"]


def test_a_graph_for_which_there_is_no_memory(cupy: Any) -> None:
    recorder = StreamRecorder(cupy)
    cupy.status = NO_MEMORY
    with pytest.raises(MemoryError, match="4,096 bytes more for a graph"):
        recorder.capture(lambda: cupy.malloc(4096))
    cupy.status = 700
    with pytest.raises(CUDARuntimeError, match="700"):
        recorder.capture(lambda: cupy.malloc(4096))


def test_out_of_memory_says_what_is_free(cupy: Any) -> None:
    with (
        pytest.raises(
            MemoryError,
            match=r"^Out of memory allocating 5,000 bytes \(allocated so far: 7 bytes\); 1,000 of the GPU's 80,000",
        ) as caught,
        explained(cupy),
    ):
        raise OutOfMemoryError("Out of memory allocating 5,000 bytes (allocated so far: 7 bytes).")
    assert type(caught.value) is MemoryError


def test_what_is_asked_of_cupy_is_there() -> None:
    real = pytest.importorskip("cupy", exc_type=ImportError)
    for name in ("Memory", "MemoryPointer", "MemoryPool", "using_allocator", "memory.OutOfMemoryError"):
        assert operator.attrgetter(name)(real.cuda)
    assert real.cuda.Stream.begin_capture
    assert real.cuda.Stream.end_capture
    assert real.cuda.Graph.launch
    assert real.cuda.runtime.memGetInfo
    assert real.get_default_memory_pool().free_all_blocks


def test_a_compiled_function_says_so_too(compiled: Backend, cupy: Any) -> None:
    def fn(x: Any) -> Any:
        raise OutOfMemoryError("Out of memory allocating 5,000 bytes")

    fast = compiler(compiled.xp, compiled.array_type, Tape, lambda: explained(cupy))(fn)
    for _ in range(3):
        with pytest.raises(MemoryError, match="5,000 bytes; 1,000 of the GPU's"):
            fast(normal(compiled, 0, 4))


def test_nothing_is_captured_by_default() -> None:
    assert not engine.capturing()

    def fn() -> None: ...

    assert get_backend("cpu").compile(fn) is fn
