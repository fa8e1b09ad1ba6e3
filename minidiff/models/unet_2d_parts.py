"""What the blocks of `UNet2DModel` are made of, under diffusers' parameter names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minidiff import ops
from minidiff.autodiff import checkpoint
from minidiff.nn import Conv2d, CrossAttention, Dropout, GroupNorm, Linear, Module, Sequential
from minidiff.random import Generator

__all__ = ["ACTIVATIONS", "Attention", "Factory", "ResnetBlock", "Step", "StridedConv", "TimeEmbedding"]


def _mish(x: Any) -> Any:
    return ops.multiply(x, ops.tanh(ops.logaddexp(x, 0.0)))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "silu": ops.silu,
    "swish": ops.silu,
    "mish": _mish,
    "gelu": ops.gelu,
    "relu": ops.relu,
}


@dataclass(frozen=True)
class Style:
    """How a block normalizes and adds: `groups` maps channels to groups; sums are divided by `scale`."""

    groups: Callable[[int], int]
    attention_groups: int | None
    scale: float


@dataclass(frozen=True)
class Factory:
    """What all blocks of a network share, and how their layers are made of it."""

    time_width: int
    eps: float
    act_fn: str
    scale_shift: bool
    dropout: float
    head_dim: int | None
    rng: Generator

    def resnet(self, in_channels: int, out_channels: int, style: Style, **options: Any) -> ResnetBlock:
        """A residual block; `options` are those of `ResnetBlock`."""
        return ResnetBlock(in_channels, out_channels, style, self, **options)

    def attention(self, channels: int, style: Style) -> Attention:
        """Self-attention over pixels."""
        head_dim = self.head_dim or channels
        return Attention(
            channels, head_dim, style.attention_groups, eps=self.eps, scale=style.scale, rng=self.rng
        )


class ResnetBlock(Module):
    """A residual block that is told the time, and may change the size of the image between its two convolutions.

    Parameters
    ----------
    in_channels, out_channels : int
    style : Style
    factory : Factory
    groups_in : int, optional
        Of the first normalization; what the style says by default.
    resize : callable, optional
        Applied to both branches.
    shortcut : bool
        A 1x1 convolution around the block even where the channels stay.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: Style,
        factory: Factory,
        *,
        groups_in: int | None = None,
        resize: Callable[[Any], Any] | None = None,
        shortcut: bool = False,
    ) -> None:
        rng, eps = factory.rng, factory.eps
        self.scale, self.resize, self.act_fn = style.scale, resize, factory.act_fn
        self.scale_shift, self.channels = factory.scale_shift, out_channels
        self.norm1 = GroupNorm(groups_in or style.groups(in_channels), in_channels, eps=eps, rng=rng)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1, rng=rng)
        self.time_emb_proj = Linear(
            factory.time_width, out_channels * (2 if self.scale_shift else 1), rng=rng
        )
        self.norm2 = GroupNorm(style.groups(out_channels), out_channels, eps=eps, rng=rng)
        self.dropout = Dropout(factory.dropout)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, rng=rng)
        direct = in_channels == out_channels and not shortcut
        self.conv_shortcut = None if direct else Conv2d(in_channels, out_channels, 1, rng=rng)

    def __call__(self, x: Any, time: Any, rng: Generator | None = None) -> Any:
        """(N, in_channels, H, W), activated time (N, time_width) -> (N, out_channels, H', W')."""
        h = self._activated(self.norm1, x)
        if self.resize:
            x, h = self.resize(x), self.resize(h)
        told = self.time_emb_proj(time)
        if self.scale_shift:
            told = told[:, :, None, None]
            scale, shift = told[:, : self.channels, ...], told[:, self.channels :, ...]
            h = ops.add(ops.multiply(self.norm2(self.conv1(h)), ops.add(scale, 1.0)), shift)
            h = ACTIVATIONS[self.act_fn](h)
        else:
            h = self._activated(self.norm2, self.conv1(h, shift=told))
        x = self.conv_shortcut(x) if self.conv_shortcut else x
        return _scaled(self.conv2(self.dropout(h, rng), residual=x), self.scale)

    def _activated(self, norm: GroupNorm, x: Any) -> Any:
        activation = ACTIVATIONS[self.act_fn]
        return norm(x, activation="silu") if activation is ops.silu else activation(norm(x))


class Attention(CrossAttention):
    """Every pixel looks at every pixel; the result is added to the image.

    Parameters
    ----------
    channels : int
    head_dim : int
        Width of a head; there are `channels // head_dim` of them.
    groups : int or None
        Of the normalization before, which None leaves out.
    eps : float
        Of the normalization.
    scale : float
        The sum is divided by it.
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(
        self, channels: int, head_dim: int, groups: int | None, *, eps: float, scale: float, rng: Generator
    ) -> None:
        if not 0 < head_dim <= channels:
            raise ValueError(
                f"UNet2DModel: attention_head_dim={head_dim} leaves no head in {channels} channels"
            )
        self.heads, self.scale = channels // head_dim, scale
        width = self.heads * head_dim
        self.group_norm: Any = GroupNorm(groups, channels, eps=eps, rng=rng) if groups else _identity
        self.to_q, self.to_k, self.to_v = (Linear(channels, width, rng=rng) for _ in range(3))
        self.to_out = Sequential(Linear(width, channels, rng=rng))

    def __call__(self, x: Any) -> Any:  # type: ignore[override]
        """(N, channels, H, W) -> the same."""
        pixels = self._pixels(x)
        return _scaled(ops.add(self._answer(x, pixels, pixels), x), self.scale)


class StridedConv(Module):
    """Halve an image by a 3x3 convolution; with padding 0 it looks one pixel past the right and the bottom only."""

    def __init__(self, channels: int, padding: int, *, rng: Generator) -> None:
        self.padding = padding
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=padding, rng=rng)

    def __call__(self, x: Any) -> Any:
        """(N, channels, H, W) -> (N, channels, H / 2, W / 2)."""
        if not self.padding:
            pixels = ops.pad(ops.permute_dims(x, (0, 2, 3, 1)), [(0, 0), (0, 1), (0, 1), (0, 0)])
            x = ops.permute_dims(pixels, (0, 3, 1, 2))  # padded so, it stays channels-last in memory
        return self.conv(x)


class TimeEmbedding(Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, in_features: int, out_features: int, *, rng: Generator) -> None:
        self.linear_1 = Linear(in_features, out_features, rng=rng)
        self.linear_2 = Linear(out_features, out_features, rng=rng)

    def __call__(self, x: Any) -> Any:
        """(N, in_features) -> (N, out_features)."""
        return self.linear_2(ops.silu(self.linear_1(x)))


@dataclass(frozen=True)
class Step:
    """What every layer of one evaluation of the network is given."""

    time: Any
    rng: Generator | None
    checkpointed: bool

    def __call__(self, layer: Module, attention: Attention | None, *parts: Any) -> Any:
        """A layer, and attention after it, on one image or the channels of several."""

        def run(time: Any, *parts: Any) -> Any:
            x = parts[0] if len(parts) == 1 else ops.concat(parts, axis=1)
            y = layer(x, time, self.rng) if isinstance(layer, ResnetBlock) else layer(x)
            return attention(y) if attention else y

        return (checkpoint(run) if self.checkpointed else run)(self.time, *parts)


def _identity(x: Any) -> Any:
    return x


def _scaled(total: Any, scale: float) -> Any:
    return total if scale == 1 else ops.multiply(total, 1 / scale)
