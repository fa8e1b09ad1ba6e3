"""Activations, dropout and initial values in closed form, and what layers and blocks refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidiff import nn, ops
from minidiff.autodiff import Parameter, backward, record
from minidiff.backend import Backend
from minidiff.random import Generator


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
