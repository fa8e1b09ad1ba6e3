"""The networks: counts and names, an independent PyTorch U-Net with the same weights, conditions, and errors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch_reference import Reference, one_thread_torch

from minidiff import nn, ops
from minidiff.autodiff import backward, checkpoint, record, value_and_grad
from minidiff.backend import Backend
from minidiff.models import MLP, SimpleDenoiser, UNet
from minidiff.optim import Adam
from minidiff.random import Generator

ATTRIBUTES = [
    "time_mlp1", "time_mlp2", "init_conv", "down1", "pool1", "down2", "pool2", "down3", "mid1", "mid2",
    "up3", "upsample2", "up2", "upsample1", "up1", "final_norm", "final_conv",
]  # fmt: skip
BLOCKS = [name for name in ATTRIBUTES if name.removesuffix(name[-1]) in ("down", "mid", "up")]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "labels": {"num_classes": 5},
    "attention": {"attention": True, "heads": 2},
    "context": {"context_dim": 6, "heads": 4},
    "all": {"num_classes": 5, "attention": True, "context_dim": 6, "heads": 2},
}
TIMES = [0, 17, 999]


def unet(device: str | Backend = "cpu", dtype: str = "float32", **options: Any) -> UNet:
    """UNet(3, 16, 2) whose every parameter is random: GroupNorm starts at 1 and 0, which hides mistakes."""
    rng, host = Generator(4, device), np.random.default_rng(11)
    model = UNet(3, 16, 2, rng=rng, **options)
    for p in model.parameters().values():
        spread = 1 / math.sqrt(math.prod(p.shape[1:])) if p.ndim > 1 else 0.3
        p.data = rng.backend.from_numpy((host.normal(size=p.shape) * spread + (p.ndim == 1)).astype(dtype))
    return model


def inputs(model: UNet, dtype: str = "float32") -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Three images of 8 x 12 pixels, and the conditions that the network takes."""
    host = np.random.default_rng(12)
    x, conditions = host.normal(size=(3, 3, 8, 12)).astype(dtype), {}
    if model.null_label is not None:
        conditions["labels"] = np.asarray([4, 0, 5])  # 5 is the null label
    if model.config["context_dim"]:
        conditions["context"] = host.normal(size=(3, 7, 6)).astype(dtype)
    return x, conditions


def on(backend: Backend, conditions: dict[str, Any]) -> dict[str, Any]:
    return {name: backend.from_numpy(value) for name, value in conditions.items()}


def torch_unet(model: UNet, x: Any, conditions: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Output and gradients of sum(y^2), in float64, by the reference."""
    torch = one_thread_torch()
    p = {k: torch.tensor(np.asarray(v), dtype=torch.float64) for k, v in model.to("cpu").state_dict().items()}
    p = {k: v.requires_grad_() for k, v in p.items()}
    given = {
        k: torch.tensor(v).double() if k == "context" else torch.tensor(v) for k, v in conditions.items()
    }
    y = Reference().unet(
        p, torch.tensor(x).double(), torch.tensor(TIMES), **given, heads=model.config["heads"]
    )
    (y * y).sum().backward()
    return y.detach().numpy(), {k: v.grad.numpy() for k, v in p.items()}


@pytest.mark.parametrize("options", OPTIONS)
def test_every_library_gives_the_same(backend: Backend, options: str) -> None:
    model = unet(backend, **OPTIONS[options])
    x, conditions = inputs(model)
    y = model(backend.from_numpy(x), TIMES, **on(backend, conditions))
    assert isinstance(y, backend.array_type)
    assert y.dtype == backend.xp.float32
    host = unet(**OPTIONS[options])(x, TIMES, **conditions)
    assert host.shape == (3, 2, 8, 12)
    np.testing.assert_allclose(backend.to_numpy(y), host, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_forward_is_the_references(backend: Backend, options: str) -> None:
    model = unet(backend, **OPTIONS[options])
    x, conditions = inputs(model)
    y = backend.to_numpy(model(backend.from_numpy(x), TIMES, **on(backend, conditions)))
    np.testing.assert_allclose(y, torch_unet(model, x, conditions)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_gradients_are_the_references(backend: Backend, options: str, dtype: str, tolerance: float) -> None:
    model = unet(backend, dtype, **OPTIONS[options])
    x, conditions = inputs(model, dtype)
    with record(model):
        y = model(backend.from_numpy(x), TIMES, **on(backend, conditions))
        loss = ops.sum(ops.square(y))
    grads = {name: backend.to_numpy(g) for name, g in backward(loss).items()}
    _, expected = torch_unet(model, x, conditions)
    assert list(grads) == list(expected)
    for name, g in grads.items():
        size = np.abs(expected[name]).max()
        assert size > 0.1 or name.endswith("to_k.bias"), name  # which softmax does not see
        np.testing.assert_allclose(g, expected[name], rtol=0, atol=tolerance * max(1, size), err_msg=name)


def test_parameter_counts() -> None:
    assert UNet(3, 64, 3).num_parameters() == 9_572_931
    assert UNet(3, 32, 3).num_parameters() == 2_397_475


def test_names_and_layouts() -> None:
    shapes = {name: p.shape for name, p in UNet(3, 8, 2).parameters().items()}
    assert list(dict.fromkeys(name.split(".")[0] for name in shapes)) == ATTRIBUTES
    for block in BLOCKS:
        inside = {name.removeprefix(f"{block}.") for name in shapes if name.startswith(f"{block}.")}
        layers = ["conv1", "norm1", "time_mlp", "conv2", "norm2"] + ["skip_conv"] * (
            f"{block}.skip_conv.bias" in shapes
        )
        assert inside == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert [b for b in BLOCKS if f"{b}.skip_conv.bias" not in shapes] == ["down3", "mid1", "mid2"]
    assert {b: shapes[f"{b}.conv1.weight"][:2] for b in BLOCKS} == {
        "down1": (16, 8), "down2": (32, 16), "down3": (32, 32), "mid1": (32, 32), "mid2": (32, 32),
        "up3": (32, 64), "up2": (16, 64), "up1": (8, 32),
    }  # fmt: skip
    assert shapes["time_mlp1.weight"] == (32, 8)
    assert shapes["time_mlp2.weight"] == shapes["mid1.time_mlp.weight"] == (32, 32)
    assert shapes["init_conv.weight"] == (8, 3, 3, 3)
    assert shapes["pool2.conv.weight"] == shapes["upsample2.conv.weight"] == (32, 32, 3, 3)
    assert shapes["up1.skip_conv.weight"] == (8, 32, 1, 1)
    assert shapes["final_norm.weight"] == (8,)
    assert shapes["final_conv.weight"] == (2, 8, 3, 3)


def test_config_makes_the_network_again() -> None:
    for options in OPTIONS.values():
        model = unet(**options)
        again = UNet(**json.loads(json.dumps(model.config)))
        assert {k: p.shape for k, p in again.parameters().items()} == {
            k: p.shape for k, p in model.parameters().items()
        }
        assert again.config == model.config
        again.load_state_dict(model.state_dict())
        x, conditions = inputs(model)
        np.testing.assert_array_equal(again(x, TIMES, **conditions), model(x, TIMES, **conditions))
    first, second = SimpleDenoiser(1), SimpleDenoiser(**SimpleDenoiser(1).config)
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value, second.state_dict()[name])  # Generator(0) by default


def test_timestep_embedding(backend: Backend) -> None:
    times = [0.0, 1.0, 2.5, 17.0, 999.0]
    embedded = nn.timestep_embedding(backend.from_numpy(np.asarray(times)), 8)
    assert embedded.dtype == backend.xp.float32
    frequencies = [10000 ** (-i / 3) for i in range(4)]
    expected = [[f(t * w) for f in (math.sin, math.cos) for w in frequencies] for t in times]
    np.testing.assert_allclose(backend.to_numpy(embedded), expected, rtol=0, atol=1e-7)
    assert np.asarray(expected)[1, [0, 4, 3]] == pytest.approx([math.sin(1), math.cos(1), math.sin(1e-4)])
    pair = nn.timestep_embedding(backend.from_numpy(np.asarray([3])), 2)  # one frequency, 1
    np.testing.assert_allclose(backend.to_numpy(pair), [[math.sin(3), math.cos(3)]], atol=1e-7)


def test_every_way_to_say_when_and_what(backend: Backend) -> None:
    model = unet(backend, num_classes=5)
    x = backend.from_numpy(inputs(model)[0])
    expected = backend.to_numpy(model(x, [7, 7, 7], labels=[2, 2, 2]))
    sevens = np.asarray([7, 7, 7])
    for time in (
        7,
        7.0,
        np.int64(7),
        np.asarray(7),
        (7, 7, 7),
        sevens,
        sevens.astype(np.float32),
        sevens.astype(np.int32),
    ):
        np.testing.assert_array_equal(backend.to_numpy(model(x, time, labels=2)), expected)
    for time in (sevens, sevens.astype(np.float32)):
        labels = backend.from_numpy(np.asarray([2, 2, 2], np.int32))
        np.testing.assert_array_equal(
            backend.to_numpy(model(x, backend.from_numpy(time), labels=labels)), expected
        )
    assert np.abs(backend.to_numpy(model(x, [7, 8, 7], labels=2)) - expected).max(axis=(1, 2, 3))[1] > 0.01


def test_the_null_label_stands_for_no_label(backend: Backend) -> None:
    model = unet(backend, num_classes=5)
    x = backend.from_numpy(inputs(model)[0])
    assert model.null_label == 5
    assert unet(backend).null_label is None
    nothing = backend.to_numpy(model(x, 3))
    np.testing.assert_array_equal(nothing, backend.to_numpy(model(x, 3, labels=[5, 5, 5])))
    assert np.abs(nothing - backend.to_numpy(model(x, 3, labels=4))).max() > 0.01


def test_memory_order_does_not_matter() -> None:
    model = unet(attention=True)
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    y = model(x, 5)
    wide = np.zeros((2, 3, 16, 24), np.float32)
    wide[:, :, ::2, ::3] = x
    for same in (
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        np.asfortranarray(x),
        wide[:, :, ::2, ::3],
    ):
        same.flags.writeable = False
        np.testing.assert_array_equal(model(same, 5), y)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_dtype_and_empty_batch(backend: Backend) -> None:
    model = unet(backend, **OPTIONS["all"])
    x, conditions = inputs(model, "float64")
    y = model(backend.from_numpy(x), TIMES, **on(backend, conditions))
    assert y.dtype == backend.xp.float64
    plain = unet(backend, num_classes=5)
    if backend.device != "strict":
        half = plain(ops.astype(backend.from_numpy(x), "float16"), TIMES)
        assert str(half.dtype).endswith("float16")
        exact = backend.to_numpy(plain(backend.from_numpy(x), TIMES))
        assert np.abs(backend.to_numpy(half) - exact).max() < 0.02 * np.abs(exact).max()
    nothing = plain(backend.from_numpy(np.zeros((0, 3, 8, 8), np.float32)), 3)
    assert tuple(nothing.shape) == (0, 2, 8, 8)


def test_checkpointed_blocks_give_the_same_gradients(backend: Backend) -> None:
    model = unet(backend, **OPTIONS["all"])
    parameters = model.parameters()
    x, conditions = inputs(model)

    def gradients() -> list[Any]:
        with record():
            loss = ops.mean(ops.square(model(backend.from_numpy(x), TIMES, **on(backend, conditions))))
        grads = backward(loss)
        return [backend.to_numpy(loss.data), *(backend.to_numpy(grads.wrt(p)) for p in parameters.values())]

    def forget(name: str) -> None:
        block = getattr(model, name)

        def counted(*args: Any) -> Any:
            calls.append(name)
            return block(*args)

        setattr(model, name, checkpoint(counted))

    expected, calls = gradients(), []
    for name in (*BLOCKS, "mid_attention", "mid_cross_attention"):
        if name != "mid1":
            forget(name)
    for mine, other in zip(gradients(), expected, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert sorted(calls) == sorted(2 * list(dict.fromkeys(calls)))
    assert len(calls) == 2 * 9
    forget("mid1")  # its two gradients of skip3 are added up before the decoder's joins them, not after
    for mine, other in zip(gradients(), expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


def test_a_small_unet_overfits_one_batch() -> None:
    rng = Generator(1)
    clean, noise = rng.uniform((4, 1, 8, 8), low=-1, high=1), rng.normal((4, 1, 8, 8))
    alpha_bar = np.asarray([0.9, 0.6, 0.3, 0.05], np.float32).reshape(4, 1, 1, 1)
    noisy = np.sqrt(alpha_bar) * clean + np.sqrt(1 - alpha_bar) * noise
    model = UNet(1, 16, 1, rng=rng)
    optimizer = Adam(model, lr=2e-3)
    step = value_and_grad(lambda: ops.mse_loss(model(noisy, [100, 300, 600, 900]), noise), model)
    losses = []
    for _ in range(120):
        loss, grads = step()
        optimizer.step(grads)
        losses.append(float(loss))
    assert losses[0] > 0.5
    assert losses[-1] < 0.02, losses


def test_simple_denoiser(backend: Backend) -> None:
    torch = one_thread_torch()
    model = SimpleDenoiser(rng=Generator(2, backend))
    assert model.num_parameters() == 3 * 64 * 9 + 64 + 2 * 64 * 128 * 9 + 128 + 64 + 64 * 3 * 9 + 3
    x = np.random.default_rng(3).normal(size=(2, 3, 6, 4)).astype(np.float32)
    p = {k: torch.tensor(backend.to_numpy(v)) for k, v in model.state_dict().items()}
    y = model(backend.from_numpy(x))
    expected = Reference().simple_denoiser(p, torch.tensor(x)).numpy()
    np.testing.assert_allclose(backend.to_numpy(y), expected, rtol=0, atol=1e-5)


def test_mlp_is_a_model() -> None:
    model = MLP((2, 8, 1), activation="tanh", rng=Generator(0))
    assert MLP is nn.MLP
    assert model.num_parameters() == 2 * 8 + 8 + 8 + 1
    assert model(np.zeros((5, 7, 2), np.float32)).shape == (5, 7, 1)
    w = {name: p.data for name, p in model.parameters().items()}
    x = Generator(1).normal((4, 2))
    h = np.tanh(x @ w["layers.0.weight"].T + w["layers.0.bias"])
    np.testing.assert_allclose(model(x), h @ w["layers.2.weight"].T + w["layers.2.bias"], atol=1e-6)


X = np.zeros((2, 3, 8, 8), np.float32)
CONTEXT = np.zeros((2, 7, 6), np.float32)
PLAIN, LABELLED, TOLD = UNet(3, 8, 2), UNet(3, 8, 2, num_classes=5), UNet(3, 8, 2, context_dim=6)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: PLAIN(X[..., :6], 1), ValueError, "sides must divide by 4, got 8 x 6 pixels; pad or resize"),
        (lambda: PLAIN(X[:, :2], 1), ValueError, r"expected images \(N, 3, H, W\), got shape \(2, 2, 8, 8\)"),
        (lambda: PLAIN(X[0], 1), ValueError, r"expected images \(N, 3, H, W\), got shape \(3, 8, 8\)"),
        (lambda: PLAIN(X.astype(np.uint8), 1), TypeError, "UNet: x is uint8; convert it to a floating dtype"),
        (lambda: PLAIN(X, [1, 2, 3]), ValueError, r"expected 2 timesteps, one per image, got shape \(3,\)"),
        (lambda: PLAIN(X, np.ones((2, 1))), ValueError, r"expected 2 timesteps, one per image, got shape \(2, 1\)"),
        (lambda: PLAIN(X, 1, labels=1), ValueError, "labels were given, but .* without num_classes"),
        (lambda: LABELLED(X, 1, labels=[1]), ValueError, r"expected 2 labels, one per image, got shape \(1,\)"),
        (lambda: LABELLED(X, 1, labels=[1, 6]), IndexError, "index 6 is outside 0 to 5"),
        (lambda: LABELLED(X, 1, labels=-1), IndexError, "index -1 is outside 0 to 5"),
        (lambda: LABELLED(X, 1, labels=[0.5, 1]), TypeError, "indices must be integers, got float64"),
        (lambda: PLAIN(X, 1, CONTEXT), ValueError, "a context was given, but .* context_dim=None"),
        (lambda: TOLD(X, 1), ValueError, "no context was given, but .* context_dim=6"),
        (lambda: TOLD(X, 1, CONTEXT[:1]), ValueError, r"expected a context \(2, L, 6\), got shape \(1, 7, 6\)"),
        (lambda: TOLD(X, 1, CONTEXT[..., :5]), ValueError, r"expected a context \(2, L, 6\), got shape \(2, 7, 5\)"),
        (lambda: UNet(3, 12, 3), ValueError, "8 groups do not divide 12 channels"),
        (lambda: UNet(3, 1, 3)(X, 1), ValueError, "width must be even, got 1"),
        (lambda: UNet(3, 8, 3, attention=True, heads=3), ValueError, "3 heads do not divide 32 channels"),
        (lambda: SimpleDenoiser()(X[..., :7]), ValueError, r"even sides, got \(2, 3, 8, 7\)"),
        (lambda: SimpleDenoiser(1)(X), ValueError, "x has 3 channels but weight expects 1"),
        (lambda: MLP([2], rng=Generator(0)), ValueError, r"input and output at least are needed, got \(2,\)"),
        (lambda: MLP([2, 1], rng=Generator(0))(X), ValueError, r"\(2, 3, 8, 8\).*\(1, 2\)"),
    ],
)  # fmt: skip
def test_errors_name_the_numbers(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
