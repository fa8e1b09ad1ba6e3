"""Functions captured as CUDA graphs by CuPy itself: the same bits as without, and memory of their own."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import cupy
import numpy as np
import pytest

from minidiff import Generator, inference, ops, value_and_grad
from minidiff.backend import Backend
from minidiff.diffusion import GaussianDiffusion, NoiseSchedule
from minidiff.loss_and_gradients import LossAndGradients
from minidiff.models import UNet
from minidiff.ops.support import find_dtype
from tests.hostcuda import memory, streams
from tests.simt.graphs import normal, same

DTYPES = ("float32", "bfloat16")


class Counted:
    """A function that counts its calls: two, if the second was captured."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.function(*arguments)


@pytest.fixture(autouse=True)
def captured(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is left out of a graph."""
    yield
    assert not [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING]


def network(backend: Backend) -> UNet:
    return UNet(3, 8, 3, num_classes=4, attention=True, rng=Generator(0, backend))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network(backend: Backend, dtype: str) -> None:
    model = network(backend)
    function = Counted(lambda x, t, labels: model(x, t, labels=labels))
    fast = backend.compile(function)
    with inference():
        for seed in range(4):
            x = ops.astype(normal(backend, seed, 2, 3, 8, 8), find_dtype(backend.xp, dtype))
            t, labels = backend.from_numpy(np.asarray([seed, 500])), backend.from_numpy(np.asarray([seed, 2]))
            y = fast(x, t, labels)
            scratch = backend.xp.full(
                (1 << 16,), np.nan, dtype=backend.xp.float32
            )  # where graphs must not be
            same(backend, as_float(backend, y), as_float(backend, model(x, t, labels=labels)))
            assert cupy.isnan(scratch).all()
    assert function.calls == 2


def test_times_and_labels_that_are_one_number_or_none(backend: Backend) -> None:
    model = network(backend)
    function = Counted(lambda x: model(x, 7))
    fast = backend.compile(function)
    with inference():
        for seed in range(3):
            x = normal(backend, seed, 2, 3, 8, 8)
            same(backend, fast(x), model(x, 7))
    assert function.calls == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient(backend: Backend, dtype: str) -> None:
    model = network(backend)
    t, labels = backend.from_numpy(np.asarray([3, 500])), backend.from_numpy(np.asarray([3, 0]))

    def slopes(x: Any) -> Any:
        loss, grads = value_and_grad(lambda: ops.mse_loss(model(x, t, labels=labels), x), model)()
        return {"loss": loss, **grads}

    function = Counted(slopes)
    fast = backend.compile(function)
    for seed in range(3):
        x = ops.astype(normal(backend, seed, 2, 3, 8, 8), find_dtype(backend.xp, dtype))
        result = fast(x)
        backend.xp.full((1 << 16,), np.nan, dtype=backend.xp.float32)  # into memory that nobody holds
        expected = slopes(x)
        assert result.keys() == expected.keys()
        for name, slope in expected.items():
            same(backend, as_float(backend, result[name]), as_float(backend, slope))
    assert function.calls == 2


def as_float(backend: Backend, x: Any) -> Any:
    """Of NumPy's own dtypes, so that bits can be compared."""
    return backend.xp.astype(x, backend.xp.float32)


def test_a_training_step(backend: Backend) -> None:
    rng, other = Generator(5, backend), Generator(0, backend)
    model = network(backend)
    other.state = rng.state
    diffusion = GaussianDiffusion(NoiseSchedule(), null_probability=0.5, stratified=True)

    def loss(network: Any, x: Any, labels: Any, noise: Generator) -> Any:
        return diffusion.loss(network, x, noise, labels=labels, null_label=model.null_label)

    function = Counted(loss)
    step = LossAndGradients(model, function, rng)
    for seed in range(5):
        x, labels = normal(backend, seed, 3, 3, 8, 8), backend.from_numpy(np.asarray([seed % 4, 1, 3]))
        value, grads = step(x, labels)
        expected, slopes = value_and_grad(loss, model)(model, x, labels, other)
        same(backend, value, expected)
        for name, slope in slopes.items():
            same(backend, grads[name], slope)
    assert function.calls == 3  # the first finds out what is drawn


def test_a_graph_keeps_its_memory(backend: Backend) -> None:
    weight = normal(backend, 9, 64, 64)
    fast = backend.compile(
        lambda x: ops.silu(ops.linear(ops.silu(ops.linear(x, weight, None)), weight, None))
    )
    x = normal(backend, 0, 64, 64)
    first, _ = fast(x), fast(x)  # as it is, and captured
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()  # as the next capture does
    others = [backend.xp.full((64, 64), np.nan, dtype=backend.xp.float32) for _ in range(50)]
    same(backend, fast(x), first)
    assert all(bool(cupy.isnan(other).all()) for other in others)


def test_a_graph_that_is_dropped_gives_its_memory_back(backend: Backend) -> None:
    def free_bytes() -> int:
        streams.finish_all()
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        return memory.free_bytes()

    x = normal(backend, 0, 64, 64)
    before = free_bytes()
    fast = backend.compile(lambda x: ops.silu(ops.silu(ops.silu(x))))
    for _ in range(3):
        fast(x)
    assert free_bytes() < before
    del fast
    assert free_bytes() == before
