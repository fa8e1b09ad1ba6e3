"""Copies of objects, and pickles of them: for another process, an experiment, an undo."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidiff import Generator, Parameter, nn, ops, value_and_grad
from minidiff.backend import Backend, get_backend
from minidiff.data import load_digits
from minidiff.diffusion import SAMPLER_FAMILIES, GaussianDiffusion
from minidiff.models import MLP, SimpleDenoiser, UNet
from minidiff.optim import EMA, SGD, AdamW

COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
copied = pytest.mark.parametrize("again", COPIES, ids=["deepcopy", "pickle"])


@copied
def test_a_generator_goes_on_where_the_other_was(again: Callable[[Any], Any]) -> None:
    rng = Generator(7)
    rng.normal(5)
    other = again(rng)
    assert other.backend is rng.backend is get_backend("cpu")
    assert other.state == rng.state
    np.testing.assert_array_equal(other.normal(9), rng.normal(9))
    other.normal(4)
    assert other.state != rng.state


def test_a_copied_generator_stays_on_its_device(backend: Backend) -> None:
    """Also on one that has no name in the registry."""
    rng = Generator(7, backend)
    other = copy.deepcopy({"rng": rng})["rng"]
    assert other is not rng
    assert other.backend is backend


@copied
@pytest.mark.parametrize(
    "model",
    [
        lambda rng: UNet(1, 8, 1, num_classes=3, attention=True, rng=rng),
        lambda rng: SimpleDenoiser(8, rng=rng),
        lambda rng: MLP([4, 8, 1], rng=rng),
        lambda rng: nn.Sequential(nn.Embedding(3, 4, rng=rng), nn.Activation("none"), nn.Dropout(0.5)),
    ],
    ids=["UNet", "SimpleDenoiser", "MLP", "Sequential"],
)
def test_a_copied_network_has_weights_of_its_own(
    again: Callable[[Any], Any], model: Callable[[Generator], Any]
) -> None:
    one = model(Generator(0))
    other = again(one)
    assert repr(other) == repr(one)
    for (name, p), (same, q) in zip(one.parameters().items(), other.parameters().items(), strict=True):
        assert name == same
        assert p is not q
        np.testing.assert_array_equal(p.data, q.data)
        assert not np.shares_memory(p.data, q.data)


@copied
def test_a_copied_run_takes_the_same_steps(again: Callable[[Any], Any]) -> None:
    """Network, optimizer and average together, so that they still share their parameters."""
    model = MLP([2, 4, 1], rng=Generator(0))
    x = Generator(1).normal((8, 2))
    run = {
        "model": model,
        "optimizer": AdamW(model, lr=0.1),
        "ema": EMA(model),
        "sgd": SGD(model, 0.1, momentum=0.9),
    }

    def step(run: dict[str, Any]) -> None:
        network = run["model"]
        _, grads = value_and_grad(lambda: ops.mean(ops.square(network(x))), network)()
        for part in ("optimizer", "sgd"):
            run[part].step(grads)
        run["ema"].update()

    step(run)
    other = again(run)
    step(run)
    before = {name: p.data for name, p in other["model"].parameters().items()}
    step(other)
    for name, p in run["model"].parameters().items():
        q = other["model"].parameters()[name]
        assert (q.data != before[name]).any()
        np.testing.assert_array_equal(p.data, q.data)
        np.testing.assert_array_equal(run["ema"].averaged[name], other["ema"].averaged[name])


@copied
@pytest.mark.parametrize("name", [name for family in SAMPLER_FAMILIES for name in family])
def test_a_copied_sampler_goes_on_in_the_middle_of_a_loop(again: Callable[[Any], Any], name: str) -> None:
    one = next(family[name] for family in SAMPLER_FAMILIES if name in family)()
    one.set_timesteps(8)
    x, middle = np.ones((1, 1, 2, 2)), len(one.timesteps) // 2

    def follow(sampler: Any, x: Any, timesteps: list[float]) -> Any:
        rng = Generator(3)
        for t in timesteps:
            x = sampler.step(np.tanh(sampler.scale_model_input(x, t)), t, x, rng=rng).prev_sample
        return x

    x = follow(one, x, one.timesteps[:middle])
    other = again(one)
    assert other.config == one.config
    rest = one.timesteps[middle:]
    np.testing.assert_array_equal(follow(other, x, rest), follow(one, x, rest))


@copied
def test_values_are_copied_whole(again: Callable[[Any], Any]) -> None:
    diffusion = GaussianDiffusion(prediction_type="v_prediction")
    assert again(diffusion) == diffusion
    digits = again(load_digits())
    assert repr(digits) == repr(load_digits())
    p = again(Parameter(np.arange(3.0)))
    np.testing.assert_array_equal(p.data, [0, 1, 2])


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_arrays_whose_operators_mean_something_else_are_refused() -> None:
    """A product of matrices in place of one of elements, or numbers that are not to be looked at."""
    layer = nn.Linear(2, 2, rng=Generator(0))
    for x in (np.matrix(np.eye(2)), np.ma.masked_array(np.eye(2), mask=np.eye(2) > 0)):
        for use in (
            ops.square,
            Parameter,
            lambda x: layer.load_state_dict({"weight": x, "bias": np.zeros(2)}),
        ):
            with pytest.raises(TypeError, match=rf"got a {type(x).__name__}, .* take np\.asarray"):
                use(x)
    mapped = np.eye(2, dtype=np.float32).view(np.memmap)
    np.testing.assert_array_equal(ops.square(mapped), np.eye(2))
