"""Optimizers, averages and clipping with the NumPy backend's kernels: the bits and the manners of the rules."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from minidiff import Generator, nn, ops
from minidiff.autodiff import Parameter, value_and_grad
from minidiff.backend import get_backend
from minidiff.checkpoints import read_tensors, save_checkpoint
from minidiff.optim import EMA, Adam, clip_gradients
from minidiff.testing.conformance import serving, without_kernels
from tests.optimizer_cases import make
from tests.optimizer_kernels import (  # noqa: F401
    KERNELS,
    Array,
    drawn,
    laid_out,
    lies_like,
    read_only,
    same_bits,
    small_blocks,
)

NAMES = ["sgd weight decay", "nesterov", "adam", "adamw"]


class Run:
    """A small network in training, whose convolutions' gradients lie as (KH, KW, C, O)."""

    def __init__(self, name: str) -> None:
        rng = Generator(0)
        self.model = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1, rng=rng),
            nn.GroupNorm(2, 6, rng=rng),
            nn.Activation("silu"),
            nn.Conv2d(6, 5, 3, padding=1, rng=rng),
            nn.Conv2d(5, 1, 1, rng=rng),
        )
        self.optimizer, self.ema = make(name, self.model), EMA(self.model, 0.9)

    def steps(self, numbers: range) -> None:
        for step in numbers:
            x = Generator(step).normal((2, 1, 4, 4))
            _, grads = value_and_grad(lambda x=x: ops.mse_loss(self.model(x), x), self.model)()
            turned = {name: laid_out(g, "HWIO") for name, g in grads.items()}
            clipped, norm = clip_gradients(turned, 0.5)
            assert norm > 0.5
            self.optimizer.step(clipped)
            self.ema.update()

    def tensors(self) -> dict[str, dict[str, Array]]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load(self, folder: Path, steps: int) -> None:
        self.model.load_state_dict(read_tensors(folder, "model"))
        self.optimizer.load_state_dict(read_tensors(folder, "optimizer"), steps=steps)
        self.ema.load_state_dict(read_tensors(folder, "ema"), steps=steps)


def assert_same(one: dict[str, dict[str, Array]], other: dict[str, dict[str, Array]]) -> None:
    for part, arrays in one.items():
        assert arrays.keys() == other[part].keys()
        assert all(same_bits(x, other[part][name]) for name, x in arrays.items())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_saved_and_resumed_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Although what is read lies in C order, and what went on does not."""
    whole, again = Run(name), Run(name)
    whole.steps(range(3))
    save_checkpoint(tmp_path / "c", whole.tensors(), {})
    whole.steps(range(3, 5))
    again.load(tmp_path / "c", 3)
    mine, theirs = (run.model.parameters()["3.weight"] for run in (again, whole))
    assert mine.data.flags.c_contiguous
    assert not theirs.data.flags.c_contiguous
    again.steps(range(3, 5))
    assert not mine.data.flags.c_contiguous
    assert_same(whole.tensors(), again.tensors())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NAMES)
def test_everything_lies_as_the_gradients_from_the_first_step_on(name: str) -> None:
    run = Run(name)
    run.steps(range(1))
    states = [(key.partition(".")[2], x) for key, x in run.optimizer.state_dict().items()]
    for key, x in [*run.model.state_dict().items(), *run.ema.averaged.items(), *states]:
        assert lies_like(x, laid_out(run.model.state_dict()[key], "HWIO")), key


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NAMES)
def test_old_arrays_keep_their_numbers(name: str) -> None:
    parameters = {key: Parameter(x) for key, x in zip("abcd", drawn((7, 5, 3, 3), 4), strict=True)}
    grads = {key: read_only(laid_out(p.data, "HWIO")) for key, p in parameters.items()}
    optimizer, average = make(name, parameters), EMA(parameters, 0.5)
    for _ in range(3):
        held = [p.data for p in parameters.values()]
        states = [*optimizer.state_dict().values(), *average.state_dict().values()]
        with average.swapped_in():
            swapped = [p.data for p in parameters.values()]
        kept = [x.copy() for x in (*held, *states, *swapped)]
        optimizer.step(grads)
        average.update()
        assert all(map(same_bits, (*held, *states, *swapped), kept))
        assert not np.array_equal(parameters["a"].data, held[0])


def test_twenty_steps_and_averages_have_the_generic_bits() -> None:
    """In the sizes of a network, with small and large arrays, in both memory orders."""
    cpu = get_backend("cpu")
    start = {
        "large": (96, 64, 5, 5),
        "middle": (40, 50, 3, 3),
        "small": (9, 8, 3, 3),
        "bias": (96,),
        "scale": (),
    }
    ends = []
    for kernels in ({}, KERNELS):
        parameters = {k: Parameter(drawn(shape, 1)[0]) for k, shape in start.items()}
        optimizer, average = Adam(parameters, 0.01), EMA(parameters, 0.9)
        with serving(cpu, kernels):
            for step in range(20):
                rng = np.random.default_rng(step)
                grads = {k: np.asarray(rng.normal(size=s), np.float32) for k, s in start.items()}
                order = "HWIO" if kernels and step >= 5 else "C"
                optimizer.step({k: laid_out(g, order) for k, g in grads.items()})
                average.update()
        ends.append({"p": {k: p.data for k, p in parameters.items()}, "ema": average.averaged})
    assert_same(*ends)
    assert not ends[1]["p"]["middle"].flags.c_contiguous


def test_clipping_with_the_kernel_is_clipping() -> None:
    cpu = get_backend("cpu")
    grads = {str(i): laid_out(x, "HWIO") for i, x in enumerate(drawn((40, 50, 3, 3), 3))}
    with without_kernels(cpu):
        expected, norm = clip_gradients(grads, 0.5)
    with serving(cpu, KERNELS):
        clipped, ours = clip_gradients(grads, 0.5)
        assert clip_gradients(grads, 1e9)[0] == grads
    assert ours == pytest.approx(norm, rel=1e-6)
    left = sum(float(np.sum(np.square(x, dtype=np.float64))) for x in clipped.values())
    assert math.sqrt(left) == pytest.approx(0.5)
    for key, x in clipped.items():
        np.testing.assert_allclose(x, expected[key], rtol=1e-6)
        assert lies_like(x, grads[key])
