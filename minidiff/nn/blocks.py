"""Blocks of image networks: a few layers that are always used together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from minidiff import ops
from minidiff.nn.layers import Activation, Conv2d, ConvTranspose2d, GroupNorm, Linear, Sequential
from minidiff.nn.module import Module
from minidiff.random import Generator

__all__ = ["MLP", "ConvBlock", "Downsample", "ResBlock", "ResidualBlock", "Upsample"]


class MLP(Module):
    """Linear layers with an activation between them.

    Parameters
    ----------
    widths : sequence of int
        Of the input, of each hidden layer, and of the output: (2, 8, 1).
    activation : str
        A name that `Activation` knows.
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(self, widths: Sequence[int], *, activation: str = "relu", rng: Generator) -> None:
        if len(widths) < 2:
            raise ValueError(f"MLP: the widths of input and output at least are needed, got {tuple(widths)}")
        self.config = {"widths": list(widths), "activation": activation}
        layers: list[Module] = []
        for inner, outer in pairwise(widths):
            layers += [Linear(inner, outer, rng=rng), Activation(activation)]
        self.layers = Sequential(*layers[:-1])

    def __call__(self, x: Any) -> Any:
        """(..., widths[0]) -> (..., widths[-1])."""
        return self.layers(x)


class ConvBlock(Module):
    """Convolution, group normalization, activation.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride : int
        In pixels; the padding keeps the size for an odd kernel and stride 1.
    groups : int, optional
        Of the normalization; min(8, out_channels) by default.
    activation : str
        A name that `Activation` knows.
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        groups: int | None = None,
        activation: str = "silu",
        rng: Generator,
    ) -> None:
        self.conv = Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, rng=rng
        )
        self.norm = GroupNorm(min(8, out_channels) if groups is None else groups, out_channels, rng=rng)
        self.activation = Activation(activation)

    def __call__(self, x: Any) -> Any:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)) for an odd kernel."""
        if self.activation.name == "silu":
            return self.norm(self.conv(x), activation="silu")
        return self.activation(self.norm(self.conv(x)))


def _skip(in_channels: int, out_channels: int, rng: Generator) -> Conv2d | None:
    return None if in_channels == out_channels else Conv2d(in_channels, out_channels, 1, rng=rng)


def _around(h: Any, x: Any, skip_conv: Conv2d | None) -> Any:
    """What a block made of x, and x itself or a convolution of it, added."""
    return skip_conv(x, residual=h) if skip_conv else ops.add(h, x)


class ResidualBlock(Module):
    """Two `ConvBlock`s and what they were given, added [1]_.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015, arXiv:1512.03385.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, activation: str = "silu", rng: Generator
    ) -> None:
        self.block1 = ConvBlock(in_channels, out_channels, activation=activation, rng=rng)
        self.block2 = ConvBlock(out_channels, out_channels, activation=activation, rng=rng)
        self.skip_conv = _skip(in_channels, out_channels, rng)

    def __call__(self, x: Any) -> Any:
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        return _around(self.block2(self.block1(x)), x, self.skip_conv)


class ResBlock(Module):
    """A residual block that is told the time.

    Parameters
    ----------
    in_channels, out_channels : int
    time_dim : int
        Width of the time embedding.
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, *, rng: Generator) -> None:
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1, rng=rng)
        self.norm1 = GroupNorm(min(8, out_channels), out_channels, rng=rng)
        self.time_mlp = Linear(time_dim, out_channels, rng=rng)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, rng=rng)
        self.norm2 = GroupNorm(min(8, out_channels), out_channels, rng=rng)
        self.skip_conv = _skip(in_channels, out_channels, rng)

    def __call__(self, x: Any, time: Any) -> Any:
        """(N, in_channels, H, W), (N, time_dim) -> (N, out_channels, H, W)."""
        shift = ops.silu(self.time_mlp(time))
        h = self.norm1(self.conv1(x), activation="silu")
        h = ops.add(h, ops.reshape(shift, (*shift.shape, 1, 1)))
        h = self.norm2(self.conv2(h), activation="silu")
        return _around(h, x, self.skip_conv)


_DOWNSAMPLE: dict[str, Callable[[int, Generator], Callable[[Any], Any]]] = {
    "conv3": lambda c, rng: Conv2d(c, c, 3, stride=2, padding=1, rng=rng),
    "conv4": lambda c, rng: Conv2d(c, c, 4, stride=2, padding=1, rng=rng),
    "max_pool": lambda _c, _rng: lambda x: ops.max_pool2d(x, 2),
    "avg_pool": lambda _c, _rng: lambda x: ops.avg_pool2d(x, 2),
}


class Downsample(Module):
    """Halve an image.

    Parameters
    ----------
    channels : int
    method : str
        "conv3" (3x3, stride 2), "conv4" (4x4, stride 2), "max_pool" or "avg_pool" (2x2, no parameters).
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(self, channels: int, *, method: str = "conv3", rng: Generator) -> None:
        if method not in _DOWNSAMPLE:
            raise ValueError(f"Downsample: unknown method {method!r}; one of {', '.join(_DOWNSAMPLE)}")
        self.conv = _DOWNSAMPLE[method](channels, rng)

    def __call__(self, x: Any) -> Any:
        """(N, channels, H, W) -> (N, channels, H / 2, W / 2), for even sides."""
        return self.conv(x)


class Upsample(Module):
    """Double an image.

    Parameters
    ----------
    channels : int
    method : str
        "nearest" (repeat pixels, then a 3x3 convolution) or "transposed" (4x4 transposed convolution, stride 2).
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(self, channels: int, *, method: str = "nearest", rng: Generator) -> None:
        if method not in ("nearest", "transposed"):
            raise ValueError(f"Upsample: unknown method {method!r}; one of nearest, transposed")
        self.conv: Conv2d | ConvTranspose2d = (
            Conv2d(channels, channels, 3, padding=1, rng=rng)
            if method == "nearest"
            else ConvTranspose2d(channels, channels, 4, stride=2, padding=1, rng=rng)
        )

    def __call__(self, x: Any) -> Any:
        """(N, channels, H, W) -> (N, channels, 2 H, 2 W)."""
        return self.conv(ops.upsample2d(x, 2) if isinstance(self.conv, Conv2d) else x)
