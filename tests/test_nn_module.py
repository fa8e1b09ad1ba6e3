"""What a module does: find its parameters, take over a state or refuse it whole, and move between libraries."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from minidiff import nn
from minidiff.autodiff import Parameter
from minidiff.backend import Backend
from minidiff.random import Generator


class Pair(nn.Module):
    """Everything a module may hold: parameters, modules, lists and tuples of both, and other things."""

    def __init__(self, rng: Generator) -> None:
        self.name = "pair"
        self.scale = Parameter(nn.init.ones((2,), rng))
        self.layers = [nn.Linear(2, 3, bias=False, rng=rng), (nn.LayerNorm(3, rng=rng), self.scale)]
        self.again = self.layers[0]
        self.sizes = (2, 3)
        self.nothing = None


def test_parameters_are_found_once_and_in_order() -> None:
    pair = Pair(Generator(0))
    names = ["scale", "layers.0.weight", "layers.1.0.weight", "layers.1.0.bias"]
    assert list(pair.parameters()) == list(pair.state_dict()) == names
    assert pair.parameters()["scale"] is pair.scale
    assert pair.num_parameters() == 2 + 6 + 3 + 3
    assert repr(pair) == (
        "Pair\n  scale: (2,)\n  layers:\n    0: Linear\n      weight: (3, 2)\n    1:\n      0: LayerNorm\n"
        "        weight: (3,)\n        bias: (3,)\n      1: (2,)\n  again: Linear\n    weight: (3, 2)"
    )
    assert repr(nn.Sequential(nn.Activation("silu"))) == "Sequential\n  0: Activation('silu')"


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    pair = Pair(Generator(0))
    before = {k: v.copy() for k, v in pair.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()} | {
        "layers.0.weight": np.ones((2, 3)),
        "extra": np.ones((4,)),
    }
    del state["scale"]
    with pytest.raises(ValueError, match="Pair: the state does not fit") as caught:
        pair.load_state_dict(state)
    assert str(caught.value).splitlines()[1:] == [
        "  missing scale (2,)",
        "  unknown extra (4,)",
        "  layers.0.weight has shape (2, 3), expected (3, 2)",
    ]
    for key in before:
        with pytest.raises(ValueError, match=f"missing {key}"):
            pair.load_state_dict({k: v for k, v in before.items() if k != key})
    with pytest.raises(ValueError, match="and 6 more"):
        pair.load_state_dict(before | {f"extra{i}": np.ones(1) for i in range(26)})
    no_array = SimpleNamespace(shape=(3,))
    with pytest.raises(TypeError, match="got SimpleNamespace"):
        pair.load_state_dict({k: v + 1 for k, v in before.items()} | {"layers.1.0.bias": no_array})
    for key, value in pair.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_loaded_state_is_a_copy_in_float32(backend: Backend) -> None:
    layer = nn.Linear(2, 2, rng=Generator(0, backend))
    state = {"weight": np.eye(2), "bias": np.ones(2, np.float32)}
    layer.load_state_dict(state)
    state["bias"][:] = 7
    assert layer.weight.dtype == layer.bias.dtype == backend.xp.float32
    np.testing.assert_array_equal(backend.to_numpy(layer.bias.data), 1)


@pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype")
def test_a_round_trip_through_another_library_keeps_every_bit(backend: Backend) -> None:
    module = nn.ResBlock(4, 6, 5, rng=Generator(3))
    before = {k: v.copy() for k, v in module.state_dict().items()}
    assert module.to(backend.device) is module
    assert all(isinstance(v, backend.array_type) for v in module.state_dict().values())
    x, time = Generator(1, backend).normal((1, 4, 4, 4)), Generator(2, backend).normal((1, 5))
    assert isinstance(module(x, time), backend.array_type)
    if backend.device != "cpu":
        with pytest.raises(TypeError, match=r"two libraries or devices.*module\.to"):
            module(np.ones((1, 4, 4, 4), np.float32), np.ones((1, 5), np.float32))
    for key, value in module.to("cpu").state_dict().items():
        assert value.dtype == before[key].dtype
        np.testing.assert_array_equal(value, before[key])
