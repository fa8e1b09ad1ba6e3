"""Sampling and training on the device: the host never waits for it inside a step, and ends with the CPU's numbers."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest

from minidiff import Generator, ops
from minidiff.backend import Backend, get_backend
from minidiff.diffusion import SAMPLERS, NoiseSchedule, make_sampler, sample
from minidiff.loss_and_gradients import LossAndGradients
from minidiff.models import UNet
from minidiff.optim import EMA, Adam, clip_gradients
from tests.hostcuda import memory, streams


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_of_a_sampler_waits_for_nothing(
    backend: Backend, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = UNet(1, 2, 1, rng=Generator(0, backend))
    seen: list[list[str]] = []

    def note(*_: Any) -> None:
        seen.append(streams.waits.copy())
        streams.waits.clear()

    scheduler = make_sampler(name, NoiseSchedule())
    sample(model, (2, 1, 4, 4), scheduler, steps=5, rng=Generator(1, backend), callback=note)
    assert len(seen) >= 5
    assert not any(seen[1:]), seen
    assert "not captured" not in caplog.text


def test_a_step_of_training_waits_for_the_norm_alone(backend: Backend) -> None:
    model = UNet(1, 2, 1, rng=Generator(0, backend))
    optimizer, ema = Adam(model, lr=1e-3), EMA(model, decay=0.9)
    step = LossAndGradients(
        model,
        lambda network, x, _, rng: ops.mse_loss(network(x, rng.uniform((2,))), rng.normal((2, 1, 4, 4))),
        Generator(1, backend),
    )
    x = Generator(2, backend).normal((2, 1, 4, 4))
    streams.waits.clear()
    float(backend.xp.sum(x))
    one_number = streams.waits.copy()
    for _ in range(4):
        streams.waits.clear()
        _, grads = step(x, None)
        grads, _ = clip_gradients(grads, 1.0)
        optimizer.step(grads)
        ema.update()
        assert streams.waits == one_number


@pytest.mark.parametrize("amount", [1, 7, 4096])
def test_noise_has_the_cpus_bits(backend: Backend, amount: int) -> None:
    for seed in (0, 2**63):
        here, there = Generator(seed, backend), Generator(seed, get_backend("cpu"))
        for draw in ("normal", "uniform"):
            np.testing.assert_array_equal(
                cupy.asnumpy(getattr(here, draw)((amount,))), getattr(there, draw)((amount,))
            )


def test_out_of_memory_says_what_is_free(backend: Backend) -> None:
    wide = backend.compile(lambda x: backend.xp.empty((memory.TOTAL,), dtype=backend.xp.uint8))
    with pytest.raises(MemoryError, match=rf"of the GPU's {memory.TOTAL:,} bytes are free"):
        wide(backend.xp.zeros(1))
