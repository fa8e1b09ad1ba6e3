"""Layers and blocks: PyTorch's answers from PyTorch's own states, and the habits of a module."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import load
from torch_reference import Reference, one_thread_torch

from minidiff import nn, ops
from minidiff.autodiff import Parameter, backward, record
from minidiff.backend import Backend
from minidiff.random import Generator

INDICES = np.asarray([[3, 0], [3, 6]])

# name: ours, PyTorch's, inputs (a shape, or an array of integers)
LAYERS: dict[str, tuple[Callable[[Generator], nn.Module], Callable[[Any], Any], Any]] = {
    "Linear": (lambda r: nn.Linear(5, 7, rng=r), lambda t: t.Linear(5, 7), (2, 3, 5)),
    "Linear without bias": (
        lambda r: nn.Linear(5, 7, bias=False, rng=r),
        lambda t: t.Linear(5, 7, bias=False),
        (5,),
    ),
    "Conv2d": (lambda r: nn.Conv2d(3, 4, 3, padding=1, rng=r), lambda t: t.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 6)),
    "Conv2d with options": (
        lambda r: nn.Conv2d(4, 6, 3, stride=2, padding=3, groups=2, dilation=2, bias=False, rng=r),
        lambda t: t.Conv2d(4, 6, 3, stride=2, padding=3, groups=2, dilation=2, bias=False),
        (2, 4, 9, 8),
    ),
    "ConvTranspose2d": (
        lambda r: nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1, rng=r),
        lambda t: t.ConvTranspose2d(4, 3, 4, stride=2, padding=1),
        (2, 4, 5, 3),
    ),
    "ConvTranspose2d with options": (
        lambda r: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2, dilation=2, bias=False, rng=r),
        lambda t: t.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2, dilation=2, bias=False),
        (2, 4, 3, 2),
    ),
    "GroupNorm": (lambda r: nn.GroupNorm(2, 6, eps=0.1, rng=r), lambda t: t.GroupNorm(2, 6, eps=0.1), (2, 6, 3, 5)),
    "GroupNorm of vectors": (lambda r: nn.GroupNorm(3, 6, rng=r), lambda t: t.GroupNorm(3, 6), (4, 6)),
    "LayerNorm": (lambda r: nn.LayerNorm(6, eps=0.1, rng=r), lambda t: t.LayerNorm(6, eps=0.1), (2, 3, 6)),
    "RMSNorm": (lambda r: nn.RMSNorm(6, eps=0.1, rng=r), lambda t: t.RMSNorm(6, eps=0.1), (2, 3, 6)),
    "Embedding": (lambda r: nn.Embedding(7, 5, rng=r), lambda t: t.Embedding(7, 5), INDICES),
    "Sequential": (
        lambda r: nn.Sequential(nn.Linear(5, 4, rng=r), nn.Activation("gelu"), nn.Linear(4, 2, rng=r)),
        lambda t: t.Sequential(t.Linear(5, 4), t.GELU(), t.Linear(4, 2)),
        (3, 5),
    ),
}  # fmt: skip


IMAGES = (2, 4, 4, 6)

# name: ours, the same from `Reference`, shapes of the inputs
BLOCKS: dict[str, tuple[Callable[[Generator], nn.Module], Callable[..., Any], list[tuple[int, ...]]]] = {
    "MLP": (lambda r: nn.MLP((3, 5, 4, 2), activation="tanh", rng=r), Reference.mlp, [(6, 3)]),
    "ConvBlock": (lambda r: nn.ConvBlock(4, 16, rng=r), Reference.conv_block, [IMAGES]),
    "ConvBlock 5x5, stride 2, relu": (
        lambda r: nn.ConvBlock(4, 6, 5, stride=2, activation="relu", rng=r),
        lambda f, p, x: f.conv_block(p, x, stride=2, act="relu"),
        [(2, 4, 7, 5)],
    ),
    "ResidualBlock": (lambda r: nn.ResidualBlock(4, 4, rng=r), Reference.residual_block, [IMAGES]),
    "ResidualBlock to more channels, gelu": (
        lambda r: nn.ResidualBlock(4, 6, activation="gelu", rng=r),
        lambda f, p, x: f.residual_block(p, x, act="gelu"),
        [IMAGES],
    ),
    "ResBlock": (lambda r: nn.ResBlock(4, 4, 5, rng=r), Reference.res_block, [IMAGES, (2, 5)]),
    "ResBlock to more channels": (lambda r: nn.ResBlock(4, 16, 5, rng=r), Reference.res_block, [IMAGES, (2, 5)]),
    "SelfAttention": (
        lambda r: nn.SelfAttention(4, rng=r),
        lambda f, p, x: f.attention(p, x, heads=1, groups=4),
        [IMAGES],
    ),
    "SelfAttention, 3 heads": (
        lambda r: nn.SelfAttention(12, heads=3, groups=2, rng=r),
        lambda f, p, x: f.attention(p, x, heads=3, groups=2),
        [(2, 12, 3, 2)],
    ),
    "CrossAttention, 2 heads": (
        lambda r: nn.CrossAttention(4, 5, heads=2, rng=r),
        lambda f, p, x, context: f.attention(p, x, context, heads=2, groups=4),
        [IMAGES, (2, 3, 5)],
    ),
    "Downsample conv3": (lambda r: nn.Downsample(4, rng=r), Reference.downsample, [IMAGES]),
    "Downsample conv4": (lambda r: nn.Downsample(4, method="conv4", rng=r), Reference.downsample, [IMAGES]),
    "Downsample max_pool": (
        lambda r: nn.Downsample(4, method="max_pool", rng=r),
        lambda f, p, x: f.f.max_pool2d(x, 2),
        [IMAGES],
    ),
    "Downsample avg_pool": (
        lambda r: nn.Downsample(4, method="avg_pool", rng=r),
        lambda f, p, x: f.f.avg_pool2d(x, 2),
        [IMAGES],
    ),
    "Upsample nearest": (lambda r: nn.Upsample(4, rng=r), Reference.upsample, [IMAGES]),
    "Upsample transposed": (lambda r: nn.Upsample(4, method="transposed", rng=r), Reference.transposed, [IMAGES]),
}  # fmt: skip


SHAPES = dict.fromkeys(BLOCKS, IMAGES) | {
    "Linear": (2, 3, 7),
    "Linear without bias": (7,),
    "Conv2d": (2, 4, 5, 6),
    "Conv2d with options": (2, 6, 6, 5),
    "ConvTranspose2d": (2, 3, 10, 6),
    "ConvTranspose2d with options": (2, 6, 10, 8),
    "GroupNorm": (2, 6, 3, 5),
    "GroupNorm of vectors": (4, 6),
    "LayerNorm": (2, 3, 6),
    "RMSNorm": (2, 3, 6),
    "Embedding": (2, 2, 5),
    "Sequential": (3, 2),
    "MLP": (6, 2),
    "ConvBlock": (2, 16, 4, 6),
    "ConvBlock 5x5, stride 2, relu": (2, 6, 4, 3),
    "ResidualBlock to more channels, gelu": (2, 6, 4, 6),
    "ResBlock to more channels": (2, 16, 4, 6),
    "SelfAttention, 3 heads": (2, 12, 3, 2),
    **{name: (2, 4, 2, 3) for name in BLOCKS if name.startswith("Downsample")},
    **{name: (2, 4, 8, 12) for name in BLOCKS if name.startswith("Upsample")},
}


def made(name: str, rng: Generator) -> tuple[nn.Module, list[np.ndarray[Any, Any]]]:
    """A layer or block with parameters nobody would guess (GroupNorm starts at 1 and 0), and its inputs."""
    make, _, inputs = (LAYERS | BLOCKS)[name]
    module, host = make(rng), np.random.default_rng(7)
    for p in module.parameters().values():
        p.data = rng.backend.from_numpy(host.normal(size=p.shape, scale=0.5).astype(np.float32))
    shapes = inputs if isinstance(inputs, list) else [inputs]
    return module, [
        s if isinstance(s, np.ndarray) else host.normal(size=s).astype(np.float32) for s in shapes
    ]


def torch_answer(name: str, state: Any, inputs: Any, dtype: str) -> tuple[Any, dict[str, Any], list[Any]]:
    """PyTorch's output, the loss sum(y * cos(0, 1, 2, ...)), and its gradients by name and by input."""
    torch = one_thread_torch()
    p = {k: torch.tensor(v, dtype=getattr(torch, dtype), requires_grad=True) for k, v in state.items()}
    xs = [
        torch.tensor(x) if x.dtype.kind == "i" else torch.tensor(x, dtype=getattr(torch, dtype))
        for x in inputs
    ]
    xs = [x.requires_grad_() if x.is_floating_point() else x for x in xs]
    if name in LAYERS:
        peer = LAYERS[name][1](torch.nn)
        y = torch.func.functional_call(peer.to(getattr(torch, dtype)), p, tuple(xs), strict=True)
    else:
        y = BLOCKS[name][1](Reference(), p, *xs)
    (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)).sum().backward()
    return y.detach().numpy(), {k: v.grad.numpy() for k, v in p.items()}, [x.grad for x in xs]  # fmt: skip


@pytest.mark.parametrize("name", [*LAYERS, *BLOCKS])
def test_every_library_gives_the_same(backend: Backend, name: str) -> None:
    module, inputs = made(name, Generator(0, backend))
    y = module(*(backend.from_numpy(x) for x in inputs))
    expected = made(name, Generator(0))[0](*inputs)
    assert tuple(y.shape) == expected.shape == SHAPES[name]
    np.testing.assert_allclose(backend.to_numpy(y), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*LAYERS, *BLOCKS])
def test_forward_is_pytorchs(backend: Backend, name: str) -> None:
    module, inputs = made(name, Generator(0, backend))
    state = {k: backend.to_numpy(v) for k, v in module.state_dict().items()}
    y = module(*(backend.from_numpy(x) for x in inputs))
    expected, _, _ = torch_answer(name, state, inputs, "float32")
    assert isinstance(y, backend.array_type)
    assert y.dtype == backend.xp.float32
    np.testing.assert_allclose(backend.to_numpy(y), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*LAYERS, *BLOCKS])
def test_gradients_are_pytorchs(backend: Backend, name: str) -> None:
    module, inputs = made(name, Generator(0, backend))
    state = {k: backend.to_numpy(v).astype(np.float64) for k, v in module.state_dict().items()}
    for key, p in module.parameters().items():
        p.data = backend.from_numpy(state[key])
    wide = [x if x.dtype.kind == "i" else x.astype(np.float64) for x in inputs]
    xs = [backend.from_numpy(x) if x.dtype.kind == "i" else Parameter(backend.from_numpy(x)) for x in wide]
    with record():
        y = module(*xs)
        probe = np.cos(np.arange(y.size, dtype=np.float64)).reshape(y.shape)
        loss = ops.sum(ops.multiply(y, backend.from_numpy(probe)))
    grads = backward(loss)
    _, by_name, by_input = torch_answer(name, state, wide, "float64")
    for key, p in module.parameters().items():
        np.testing.assert_allclose(backend.to_numpy(grads.wrt(p)), by_name[key], atol=1e-9, err_msg=key)
    for x, expected in zip(xs, by_input, strict=True):
        if isinstance(x, Parameter):
            np.testing.assert_allclose(backend.to_numpy(grads.wrt(x)), expected, atol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_loads_pytorchs_state(backend: Backend, name: str) -> None:
    torch = one_thread_torch()
    make, make_peer, _ = LAYERS[name]
    module, peer = make(Generator(0, backend)), make_peer(torch.nn)
    module.load_state_dict(peer.state_dict())
    assert list(module.state_dict()) == list(peer.state_dict())
    for key, value in peer.state_dict().items():
        mine = module.state_dict()[key]
        assert isinstance(mine, backend.array_type)
        assert mine.dtype == backend.xp.float32
        np.testing.assert_array_equal(backend.to_numpy(mine), value.numpy())


@pytest.mark.parametrize(
    "name", [*[n for n in LAYERS if n != "Embedding"], "ResBlock", "CrossAttention, 2 heads"]
)
def test_the_dtype_of_the_input_rules(backend: Backend, name: str) -> None:
    module, inputs = made(name, Generator(0, backend))
    xs = [backend.from_numpy(x) for x in inputs]
    exact = backend.to_numpy(module(*xs))
    for dtype in ("float64",) if backend.device == "strict" else ("float16", "bfloat16", "float64"):
        with record():
            y = module(*(ops.astype(x, dtype) for x in xs))
            loss = ops.sum(ops.astype(y, "float32"))
        assert str(y.dtype).rpartition(".")[2] == dtype
        host = backend.to_numpy(ops.astype(y, "float32"))
        assert np.max(np.abs(host - exact)) < 0.02 * np.max(np.abs(exact))
        grads = backward(loss)
        assert all(grads.wrt(p).dtype == backend.xp.float32 for p in module.parameters().values())


def test_activations(backend: Backend) -> None:
    x = np.asarray([-30.0, -1.5, 0.0, 0.25, 30.0])
    erf = np.asarray([math.erf(v / math.sqrt(2)) for v in x])
    expected = {
        "relu": np.maximum(x, 0),
        "sigmoid": 1 / (1 + np.exp(-x)),
        "tanh": np.tanh(x),
        "gelu": x * (1 + erf) / 2,
        "silu": x / (1 + np.exp(-x)),
        "none": x,
    }
    for name, y in expected.items():
        layer = nn.Activation(name)
        np.testing.assert_allclose(backend.to_numpy(layer(backend.from_numpy(x))), y, atol=1e-12)
        assert repr(layer) == f"Activation('{name}')"
        assert layer.parameters() == {}


def test_dropout(backend: Backend) -> None:
    layer, x = nn.Dropout(0.25), Parameter(Generator(1, backend).normal((40, 50)))
    assert layer(x) is x
    assert nn.Dropout(0)(x, Generator(0, backend)) is x
    with record():
        y = layer(x, Generator(5, backend))
        loss = ops.sum(y)
    slope = backend.to_numpy(backward(loss).wrt(x))
    kept = slope > 0
    np.testing.assert_allclose(slope[kept], 4 / 3, rtol=1e-6)
    np.testing.assert_allclose(backend.to_numpy(y.data), backend.to_numpy(x.data) * kept * 4 / 3, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.03  # three standard deviations
    np.testing.assert_array_equal(backend.to_numpy(layer(x, Generator(5, backend))), backend.to_numpy(y.data))


@pytest.mark.parametrize(
    ("initializer", "variance", "bound"),
    [
        (nn.init.uniform(0.3), 0.03, 0.3),
        (nn.init.normal(0.3), 0.09, None),
        (nn.init.xavier_uniform(), 2 / (90 + 180), math.sqrt(6 / 270)),
        (nn.init.xavier_normal(2.0), 8 / 270, None),
        (nn.init.kaiming_uniform(), 2 / 90, math.sqrt(6 / 90)),
        (nn.init.kaiming_normal(1.0), 1 / 90, None),
    ],
)
def test_initial_values(backend: Backend, initializer: Any, variance: float, bound: float | None) -> None:
    shape = (60, 30, 3, 1)  # fan-in 90, fan-out 180
    weight = initializer(shape, Generator(2, backend))
    assert weight.dtype == backend.xp.float32
    host = backend.to_numpy(weight).astype(np.float64)
    assert host.shape == shape
    assert abs(host.mean()) < 4 * math.sqrt(variance / host.size)
    assert host.var() == pytest.approx(variance, rel=0.08)  # four standard deviations of 5,400 normal numbers
    if bound is not None:
        assert 0.99 * bound < np.abs(host).max() <= bound


def test_fans_and_default_initial_values() -> None:
    assert nn.init.fans((60, 30, 3, 5)) == (450, 900)
    assert nn.init.fans((4, 7)) == (7, 4)
    with pytest.raises(ValueError, match=r"shape \(3,\) have no fan-in"):
        nn.init.kaiming_normal()((3,), Generator(0))
    for module, fan_in in (
        (nn.Linear(50, 40, rng=Generator(0)), 50),
        (nn.Conv2d(20, 40, 3, groups=2, rng=Generator(0)), 90),
        (nn.ConvTranspose2d(20, 40, 3, rng=Generator(0)), 360),
    ):
        bound = 1 / math.sqrt(fan_in)
        assert 0.98 * bound < np.abs(module.weight.data).max() <= bound
        assert 0.8 * bound < np.abs(module.bias.data).max() <= bound
    assert nn.Embedding(100, 50, rng=Generator(0)).weight.data.std() == pytest.approx(1, rel=0.05)
    assert (nn.Linear(2, 3, init=nn.init.zeros, rng=Generator(0)).weight.data == 0).all()


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


def test_a_round_trip_through_other_libraries_keeps_every_bit() -> None:
    module = nn.ResBlock(4, 6, 5, rng=Generator(3))
    before = {k: v.copy() for k, v in module.state_dict().items()}
    for device in ("strict", "torch", "cpu"):
        backend = load(device)
        assert module.to(device) is module
        assert all(isinstance(v, backend.array_type) for v in module.state_dict().values())
        x, time = Generator(1, device).normal((1, 4, 4, 4)), Generator(2, device).normal((1, 5))
        assert isinstance(module(x, time), backend.array_type)
    for key, value in module.state_dict().items():
        assert value.dtype == before[key].dtype
        np.testing.assert_array_equal(value, before[key])
    with pytest.raises(TypeError, match=r"two libraries or devices.*module\.to"):
        module.to("torch")(np.ones((1, 4, 4, 4), np.float32), np.ones((1, 5), np.float32))


RNG = Generator(0)
ONES = np.ones((2, 6, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nn.Activation("swish"), ValueError, "'swish'; one of relu, sigmoid, tanh, gelu, silu, none"),
        (lambda: nn.Conv2d(4, 6, 3, groups=4, rng=RNG), ValueError, "4 groups do not divide 4 and 6 channels"),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=0, rng=RNG), ValueError, "0 groups do not divide 4 and 6"),
        (lambda: nn.GroupNorm(4, 6, rng=RNG), ValueError, "4 groups do not divide 6 channels"),
        (lambda: nn.ConvBlock(4, 12, rng=RNG), ValueError, "8 groups do not divide 12 channels"),
        (lambda: nn.ConvBlock(4, 12, groups=0, rng=RNG), ValueError, "0 groups do not divide 12 channels"),
        (lambda: nn.SelfAttention(8, heads=3, rng=RNG), ValueError, "SelfAttention: 3 heads do not divide 8"),
        (lambda: nn.CrossAttention(8, 5, heads=0, rng=RNG), ValueError, "CrossAttention: 0 heads do not divide 8"),
        (lambda: nn.Dropout(1.0), ValueError, r"p must be in \[0, 1\), got 1.0"),
        (lambda: nn.Downsample(4, method="stride", rng=RNG), ValueError, "'stride'; one of conv3, conv4, max_pool"),
        (lambda: nn.Upsample(4, method="bilinear", rng=RNG), ValueError, "'bilinear'; one of nearest, transposed"),
        (lambda: nn.MLP([3], rng=RNG), ValueError, r"widths of input and output at least.*\(3,\)"),
        (lambda: nn.Conv2d(4, 6, 3, rng=RNG)(ONES), ValueError, "x has 6 channels but weight expects 4"),
        (lambda: nn.GroupNorm(2, 4, rng=RNG)(ONES), ValueError, r"\(4,\), expected \(6,\)"),
        (lambda: nn.Linear(5, 2, rng=RNG)(ONES), ValueError, r"\(2, 6, 4, 4\).*\(2, 5\)"),
        (lambda: nn.Conv2d(6, 6, 3, rng=RNG)(ONES.astype(np.uint8)), TypeError, "x is uint8; convert it"),
        (lambda: nn.Embedding(6, 2, rng=RNG)(np.asarray([1, 6])), IndexError, "index 6 is outside 0 to 5"),
        (lambda: nn.Embedding(6, 2, rng=RNG)(ONES), TypeError, "indices must be integers, got float32"),
        (lambda: nn.CrossAttention(6, 5, rng=RNG)(ONES, ONES[:, :, 0]), ValueError, r"\(2, 6, 4\).*\(6, 5\)"),
        (lambda: nn.timestep_embedding(np.arange(3), 7), ValueError, "width must be even, got 7"),
    ],
)  # fmt: skip
def test_errors_name_the_numbers(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
