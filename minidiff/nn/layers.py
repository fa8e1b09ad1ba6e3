"""Layers: parameters plus one call into `minidiff.ops`.

Parameters are float32; the input's dtype rules the computation, and weights are cast to it.
Weights start uniform in ±1 / sqrt(fan-in), PyTorch's default, unless `init` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minidiff import ops
from minidiff.autodiff import Parameter, is_recording
from minidiff.modes import prepared
from minidiff.nn import init as initializers
from minidiff.nn.init import Initializer
from minidiff.nn.module import Module
from minidiff.random import Generator

__all__ = [
    "Activation",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "RMSNorm",
    "Sequential",
]

_DEFAULT = initializers.kaiming_uniform(gain=1 / math.sqrt(3))  # bound 1 / sqrt(fan-in)
_STANDARD_NORMAL = initializers.normal(1.0)


def _in(x: Any, parameter: Parameter | None) -> Any:
    """The parameter in the dtype of x."""
    if parameter is None or parameter.dtype == x.dtype:
        return parameter
    if is_recording():
        return ops.astype(parameter, x.dtype)
    return prepared(parameter.data, f"in {x.dtype}", lambda weight: ops.astype(weight, x.dtype))


def _bias(wanted: bool, size: int, fan_in: int, rng: Generator) -> Parameter | None:
    return Parameter(initializers.uniform(1 / math.sqrt(fan_in))((size,), rng)) if wanted else None


class Linear(Module):
    """A matrix product over the last axis, plus a bias.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    init : Initializer
        Draws the weight, shape (out_features, in_features).
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init: Initializer = _DEFAULT,
        rng: Generator,
    ) -> None:
        self.weight = Parameter(init((out_features, in_features), rng))
        self.bias = _bias(bias, out_features, in_features, rng)

    def __call__(self, x: Any) -> Any:
        """(..., in_features) -> (..., out_features)."""
        return ops.linear(x, _in(x, self.weight), _in(x, self.bias))


class Conv2d(Module):
    """A bank of filters.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
        Side of the square filter, in pixels.
    stride, padding, dilation : int
        In pixels.
    groups : int
        Divides the channels into parts that do not mix.
    bias : bool
    init : Initializer
        Draws the weight, shape (out_channels, in_channels / groups, kernel_size, kernel_size).
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
        init: Initializer = _DEFAULT,
        rng: Generator,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: {groups} groups do not divide {in_channels} and {out_channels} channels"
            )
        shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        self.weight = Parameter(init(shape, rng))
        self.bias = _bias(bias, out_channels, initializers.fans(shape)[0], rng)
        self.options = {"stride": stride, "padding": padding, "groups": groups, "dilation": dilation}

    def __call__(self, x: Any, *, shift: Any = None, residual: Any = None) -> Any:
        """(N, in_channels, H, W) -> (N, out_channels, (H + 2 padding - dilation (K - 1) - 1) // stride + 1, ...).

        A shift (N, out_channels) and a residual like the result are added to it.
        """
        return ops.conv2d(x, _in(x, self.weight), _in(x, self.bias), shift, residual, **self.options)


class ConvTranspose2d(Module):
    """The transpose of a bank of filters; with a stride it enlarges images.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size : int
        Side of the square filter, in pixels.
    stride, padding, output_padding, dilation : int
        In pixels.
    groups : int
    bias : bool
    init : Initializer
        Draws the weight, shape (in_channels, out_channels / groups, kernel_size, kernel_size).
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
        init: Initializer = _DEFAULT,
        rng: Generator,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"ConvTranspose2d: {groups} groups do not divide {in_channels} and {out_channels} channels"
            )
        shape = (in_channels, out_channels // groups, kernel_size, kernel_size)
        self.weight = Parameter(init(shape, rng))
        self.bias = _bias(bias, out_channels, initializers.fans(shape)[0], rng)
        self.options = {
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "groups": groups,
            "dilation": dilation,
        }

    def __call__(self, x: Any) -> Any:
        """(N, in_channels, H, W) -> (N, out_channels, (H - 1) stride - 2 padding + K + output_padding, ...)."""
        return ops.conv_transpose2d(x, _in(x, self.weight), _in(x, self.bias), **self.options)


class GroupNorm(Module):
    """Group normalization with a learned scale and shift per channel.

    Parameters
    ----------
    num_groups : int
        Must divide `num_channels`.
    num_channels : int
    eps : float
        Added to the variance.
    rng : Generator
        Its device is where the parameters live; nothing is drawn.
    """

    def __init__(self, num_groups: int, num_channels: int, *, eps: float = 1e-5, rng: Generator) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_groups} groups do not divide {num_channels} channels")
        self.weight = Parameter(initializers.ones((num_channels,), rng))
        self.bias = Parameter(initializers.zeros((num_channels,), rng))
        self.num_groups = num_groups
        self.eps = eps

    def __call__(self, x: Any, *, activation: str | None = None) -> Any:
        """(N, num_channels, *S) -> the same; `activation="silu"` is applied in the same pass."""
        return ops.group_norm(
            x,
            _in(x, self.weight),
            _in(x, self.bias),
            groups=self.num_groups,
            eps=self.eps,
            activation=activation,
        )


class LayerNorm(Module):
    """Layer normalization of the last axis, with a learned scale and shift per element."""

    def __init__(self, width: int, *, eps: float = 1e-5, rng: Generator) -> None:
        self.weight = Parameter(initializers.ones((width,), rng))
        self.bias = Parameter(initializers.zeros((width,), rng))
        self.eps = eps

    def __call__(self, x: Any) -> Any:
        """(..., width) -> the same."""
        return ops.layer_norm(x, _in(x, self.weight), _in(x, self.bias), eps=self.eps)


class RMSNorm(Module):
    """Root-mean-square normalization of the last axis, with a learned scale per element."""

    def __init__(self, width: int, *, eps: float = 1e-5, rng: Generator) -> None:
        self.weight = Parameter(initializers.ones((width,), rng))
        self.eps = eps

    def __call__(self, x: Any) -> Any:
        """(..., width) -> the same."""
        return ops.rms_norm(x, _in(x, self.weight), eps=self.eps)


class Embedding(Module):
    """A table of vectors, drawn from the standard normal distribution unless `init` says otherwise."""

    def __init__(
        self, num_embeddings: int, width: int, *, init: Initializer = _STANDARD_NORMAL, rng: Generator
    ) -> None:
        self.weight = Parameter(init((num_embeddings, width), rng))

    def __call__(self, indices: Any) -> Any:
        """Integers S, each from 0 to num_embeddings - 1 -> (*S, width)."""
        return ops.embedding(indices, self.weight)


class Dropout(Module):
    """Sets elements to 0 with probability `p` when it is given a generator, and passes them when not."""

    def __init__(self, p: float) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p must be in [0, 1), got {p}")
        self.p = p

    def __call__(self, x: Any, rng: Generator | None = None) -> Any:
        """Any shape -> the same; training passes `rng`, inference does not."""
        return x if rng is None or self.p == 0 else ops.dropout(x, self.p, rng=rng)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "gelu": ops.gelu,
    "silu": ops.silu,
    "none": lambda x: x,
}


class Activation(Module):
    """An activation function by name: relu, sigmoid, tanh, gelu, silu or none."""

    def __init__(self, name: str) -> None:
        if name not in ACTIVATIONS:
            raise ValueError(f"unknown activation {name!r}; one of {', '.join(ACTIVATIONS)}")
        self.name = name

    def __call__(self, x: Any) -> Any:
        """Any shape -> the same."""
        return ACTIVATIONS[self.name](x)

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"


class Sequential(Module):
    """Modules called one after the other; their parameters are named "0.weight", "1.weight", ..."""

    def __init__(self, *modules: Module) -> None:
        for index, module in enumerate(modules):
            setattr(self, str(index), module)

    def __call__(self, x: Any) -> Any:
        """What the first module takes -> what the last returns."""
        for module in vars(self).values():
            x = module(x)
        return x
