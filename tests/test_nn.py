"""Layers and blocks: PyTorch's answers from PyTorch's own states, on every library and in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch_reference import Reference, one_thread_torch

from minidiff import nn, ops
from minidiff.autodiff import Parameter, backward, record
from minidiff.backend import Backend, get_backend
from minidiff.random import Generator
from minidiff.testing.conformance import without_kernels

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
    """As the generic rules on NumPy."""
    module, inputs = made(name, Generator(0, backend))
    y = module(*(backend.from_numpy(x) for x in inputs))
    with without_kernels(get_backend("cpu")):
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
