"""Attention over the pixels of an image, as a residual block; parameter names are diffusers'."""

from __future__ import annotations

from typing import Any

from minidiff import ops
from minidiff.nn.layers import GroupNorm, Linear, Sequential
from minidiff.nn.module import Module
from minidiff.random import Generator

__all__ = ["CrossAttention", "SelfAttention"]


class CrossAttention(Module):
    """Every pixel looks at the elements of a context; the result is added to the image.

    Parameters
    ----------
    channels : int
        Of the image.
    context_dim : int
        Width of a context element.
    heads : int
        Must divide `channels`.
    groups : int, optional
        Of the normalization before; min(8, channels) by default.
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(
        self, channels: int, context_dim: int, *, heads: int = 1, groups: int | None = None, rng: Generator
    ) -> None:
        if heads < 1 or channels % heads:
            raise ValueError(f"{type(self).__name__}: {heads} heads do not divide {channels} channels")
        self.heads = heads
        self.group_norm = GroupNorm(min(8, channels) if groups is None else groups, channels, rng=rng)
        self.to_q = Linear(channels, channels, rng=rng)
        self.to_k = Linear(context_dim, channels, rng=rng)
        self.to_v = Linear(context_dim, channels, rng=rng)
        self.to_out = Sequential(Linear(channels, channels, rng=rng))

    def __call__(self, x: Any, context: Any) -> Any:
        """(N, channels, H, W), (N, L, context_dim) -> (N, channels, H, W)."""
        return ops.add(x, self._answer(x, self._pixels(x), context))

    def _pixels(self, x: Any) -> Any:
        """(N, C, H, W) -> normalized (N, H * W, C)."""
        n, c, h, w = x.shape
        return ops.reshape(ops.permute_dims(self.group_norm(x), (0, 2, 3, 1)), (n, h * w, c))

    def _answer(self, x: Any, pixels: Any, context: Any) -> Any:
        n, c, h, w = x.shape
        tokens = self.to_q(pixels), self.to_k(context), self.to_v(context)
        y = ops.scaled_dot_product_attention(*map(self._split, tokens))
        y = self.to_out(ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), tuple(tokens[0].shape)))
        return ops.permute_dims(ops.reshape(y, (n, h, w, c)), (0, 3, 1, 2))

    def _split(self, tokens: Any) -> Any:
        """(N, L, C) -> (N, heads, L, C / heads)."""
        n, length, c = tokens.shape
        return ops.permute_dims(ops.reshape(tokens, (n, length, self.heads, c // self.heads)), (0, 2, 1, 3))


class SelfAttention(CrossAttention):
    """Every pixel looks at every pixel; the result is added to the image.

    Parameters
    ----------
    channels : int
    heads : int
        Must divide `channels`.
    groups : int, optional
        Of the normalization before; min(8, channels) by default.
    rng : Generator
        Draws the initial values; its device is where they live.
    """

    def __init__(self, channels: int, *, heads: int = 1, groups: int | None = None, rng: Generator) -> None:
        super().__init__(channels, channels, heads=heads, groups=groups, rng=rng)

    def __call__(self, x: Any) -> Any:  # type: ignore[override]
        """(N, channels, H, W) -> the same."""
        pixels = self._pixels(x)
        return ops.add(x, self._answer(x, pixels, pixels))
