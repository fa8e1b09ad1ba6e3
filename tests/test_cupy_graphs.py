"""`Backend.compile` on CUDA: what a tape of launches replays, and what is asked of CuPy."""

from __future__ import annotations

import dataclasses
import logging
import operator
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, Parameter, checkpoint, inference, nn, ops, precision
from minidiff.backend import Backend, get_backend, register_backend
from minidiff.data import load_digits
from minidiff.diffusion import DDIM, DDPM, GaussianDiffusion, NoiseSchedule, classifier_free_guidance, sample
from minidiff.models import UNet
from minidiff.optim import EMA, Adam
from minidiff.training import Trainer
from minidiff_cupy import engine
from minidiff_cupy.allocation import explained
from minidiff_cupy.copies import copy_all
from minidiff_cupy.graphs import StreamRecorder, compiler
from tests.conftest import load
from tests.simt.graphs import Tape, compiling


@pytest.fixture
def tapes() -> list[Tape]:
    return []


@pytest.fixture
def compiled(tapes: list[Tape]) -> Iterator[Backend]:
    """The backend "simt" with a `compile` that fills `tapes`."""
    load("simt")
    with compiling(tapes) as backend:
        yield backend


def normal(backend: Backend, seed: int, *shape: int) -> Any:
    return Generator(seed, backend).normal(shape)


def same(backend: Backend, x: Any, y: Any) -> None:
    np.testing.assert_array_equal(backend.to_numpy(x), backend.to_numpy(y))


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


# --- sampling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("method", [DDIM, DDPM])
def test_samples_are_those_of_the_network_as_it_is(
    compiled: Backend, tapes: list[Tape], method: Any, guidance: float
) -> None:
    model = UNet(1, 2, 1, num_classes=3, rng=Generator(0, compiled))
    calls: list[Any] = []

    def network(x: Any, t: Any, *, labels: Any) -> Any:
        calls.append(t)
        return model(x, t, labels=labels)

    def draw(backend: Backend) -> list[Any]:
        seen: list[Any] = []
        labels = backend.from_numpy(np.asarray([2, 0]))
        denoise = classifier_free_guidance(network, labels, 3, guidance)
        x = sample(
            denoise,
            (2, 1, 4, 4),
            method(prediction_type="sample", clip_sample=False),
            steps=5,
            rng=Generator(7, backend),
            callback=lambda i, t, x, x0: seen.extend((x, x0)),
        )
        return [*map(backend.to_numpy, (*seen, x))]

    expected, fast = uncompiled(draw), draw(compiled)
    assert len(expected) == len(fast) == 11
    for mine, other in zip(fast, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert len(calls) == 5 + 2
    assert [tape.played for tape in tapes] == [4]


def uncompiled(draw: Callable[[Backend], Any]) -> Any:
    """What `draw` returns where `compile` is the identity."""
    compiled = get_backend("simt")
    plain = dataclasses.replace(compiled, compile=lambda fn: fn)
    register_backend(plain)
    try:
        return draw(plain)
    finally:
        register_backend(compiled)


def test_weights_may_change_between_drawings(compiled: Backend) -> None:
    weight = Parameter(normal(compiled, 0, 4, 4))

    def draw() -> Any:
        return sample(
            lambda x, t: ops.linear(x, weight, None),
            (2, 1, 4, 4),
            DDIM(),
            steps=4,
            rng=Generator(3, compiled),
        )

    before = draw()
    weight.data = normal(compiled, 1, 4, 4)
    assert (compiled.to_numpy(before) != compiled.to_numpy(draw())).any()
    weight.data = normal(compiled, 0, 4, 4)
    same(compiled, before, draw())


# --- training --------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A network with all that draws at random, and a part that is computed twice."""

    def __init__(self, rng: Generator) -> None:
        self.first = nn.Conv2d(1, 4, 3, padding=1, rng=rng)
        self.label = nn.Embedding(11, 4, rng=rng)
        self.last = nn.Conv2d(4, 1, 1, rng=rng)
        self.config = {"small": True}

    def __call__(self, x: Any, t: Any, *, labels: Any, rng: Generator) -> Any:
        def middle(h: Any) -> Any:
            return ops.dropout(ops.silu(self.first(h)), 0.25, rng=rng)

        h = checkpoint(middle)(x)
        return self.last(ops.add(h, ops.reshape(self.label(labels), (*labels.shape, 4, 1, 1))))


def small_trainer(folder: Path, backend: Backend, **options: Any) -> Trainer:
    rng = Generator(5, backend)
    model = Small(rng)
    diffusion = GaussianDiffusion(
        NoiseSchedule(beta_schedule="cosine"),
        prediction_type="v_prediction",
        null_probability=0.5,
        stratified=True,
        min_snr_gamma=5.0,
    )

    def loss(network: Any, x: Any, labels: Any, noise: Generator) -> Any:
        def drawing(x: Any, t: Any, *, labels: Any) -> Any:
            return network(x, t, labels=labels, rng=noise) if network is model else network(x)

        return diffusion.loss(drawing, x, noise, labels=labels, null_label=10)

    arguments: dict[str, Any] = {
        "model": model,
        "loss": loss,
        "dataset": load_digits(),
        "optimizer": Adam(model, lr=1e-2),
        "ema": EMA(model, decay=0.5),
        "rng": rng,
        "output_dir": folder,
        "description": {},
        "steps": 7,
        "batch_size": 3,
        "checkpoint_every": 5,
    }
    return Trainer(**{**arguments, **options})


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints take any model."""
    monkeypatch.setattr("minidiff.training.describe_model", lambda model: model.config)


def state(trainer: Trainer) -> dict[str, Any]:
    arrays = {**trainer.model.state_dict(), **{f"ema.{k}": v for k, v in trainer.ema.averaged.items()}}
    return {**trainer.rng.state, **{name: trainer.rng.backend.to_numpy(x) for name, x in arrays.items()}}


def test_training_ends_with_the_same_bits(
    compiled: Backend, tapes: list[Tape], tmp_path: Path, described: None
) -> None:
    def train(backend: Backend, folder: str, **options: Any) -> dict[str, Any]:
        run = small_trainer(tmp_path / folder, backend, **options)
        run.resume()
        run.run()
        return state(run)

    expected = uncompiled(lambda plain: train(plain, "plain"))
    drawn: list[int] = []
    whole = train(compiled, "whole", on_sample=drawn.append, sample_every=2)  # with the averages swapped in
    np.testing.assert_equal(whole, expected)
    assert drawn == [2, 4, 6, 7]
    assert [tape.played for tape in tapes] == [5]  # the first step finds out what is drawn, the second runs
    for folder in (tmp_path / "whole" / "checkpoints").glob("*7"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    np.testing.assert_equal(train(compiled, "whole"), expected)


def test_numbers_drawn_ahead_are_those_drawn_inside(
    backend: Backend, tmp_path: Path, described: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = small_trainer(tmp_path / "ahead", backend)
    ahead.run()
    monkeypatch.setattr("minidiff.loss_and_gradients._Ahead.draw", lambda self, draws: {})
    inside = small_trainer(tmp_path / "inside", backend)
    inside.run()
    np.testing.assert_equal(state(ahead), state(inside))


# --- copies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8"])
def test_copies(simt_backend: Backend, dtype: str) -> None:
    rng = np.random.default_rng(0)
    chunk = 16384 // np.dtype(dtype).itemsize
    sizes = [1, 0, 3, 16, 17, chunk, chunk + 1, 2 * chunk - 1] + [5] * 130
    hosts = [rng.integers(0, 2, n).astype(dtype) for n in sizes]
    new = [simt_backend.from_numpy(np.full(n + 16, 7).astype(dtype)) for n in sizes]
    copy_all(
        simt_backend.xp,
        [(y[:n], simt_backend.from_numpy(x)) for y, x, n in zip(new, hosts, sizes, strict=True)],
    )
    for y, x, n in zip(new, hosts, sizes, strict=True):
        np.testing.assert_array_equal(simt_backend.to_numpy(y)[:n], x)
        assert (simt_backend.to_numpy(y)[n:] == np.asarray(7).astype(dtype)).all()


def test_copies_of_arrays_with_gaps(simt_backend: Backend) -> None:
    x = simt_backend.from_numpy(np.arange(60.0).reshape(3, 4, 5))
    for source in (x[:, ::2], x[..., 1:3], x[1:, 0, 3], x.transpose(2, 0, 1), x[::-1]):
        y = simt_backend.xp.empty(source.shape, dtype=source.dtype)
        copy_all(simt_backend.xp, [(y, source)])
        same(simt_backend, y, source)


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
