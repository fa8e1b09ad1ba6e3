"""The mini U-Net: three resolutions, one time-conditioned residual block at each step."""

from __future__ import annotations

from typing import Any

from minidiff import ops
from minidiff.models.per_image import per_image
from minidiff.models.pretrained import PretrainedModule
from minidiff.nn import (
    Conv2d,
    CrossAttention,
    Downsample,
    Embedding,
    GroupNorm,
    Linear,
    ResBlock,
    SelfAttention,
    Upsample,
    timestep_embedding,
)
from minidiff.ops.support import check_floating
from minidiff.random import Generator

__all__ = ["UNet"]


class UNet(PretrainedModule):
    """A U-Net [1]_ that predicts noise (or the image, or v) from a noisy image and a time [2]_.

    Parameters
    ----------
    in_channels : int
        Of the noisy image.
    model_channels : int
        Channels at full resolution; 2, 4 and 4 times as many further down. Even.
    out_channels : int
        Of the prediction.
    num_classes : int, optional
        Adds class labels 0 to num_classes - 1, and the null label `num_classes` that stands
        for "any" in classifier-free guidance.
    attention : bool
        Adds self-attention between the two middle blocks.
    context_dim : int, optional
        Adds cross-attention to a context of elements this wide, such as encoded words.
    heads : int
        Of both attentions.
    rng : Generator, optional
        Draws the initial values; its device is where they live. `Generator(0)` by default.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image
       segmentation", 2015, arXiv:1505.04597.
    .. [2] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        *,
        num_classes: int | None = None,
        attention: bool = False,
        context_dim: int | None = None,
        heads: int = 1,
        rng: Generator | None = None,
    ) -> None:
        self.config = {
            "in_channels": in_channels,
            "model_channels": model_channels,
            "out_channels": out_channels,
            "num_classes": num_classes,
            "attention": attention,
            "context_dim": context_dim,
            "heads": heads,
        }
        rng = rng or Generator(0)
        m, time_dim = model_channels, 4 * model_channels
        self.time_mlp1 = Linear(m, time_dim, rng=rng)
        self.time_mlp2 = Linear(time_dim, time_dim, rng=rng)
        self.init_conv = Conv2d(in_channels, m, 3, padding=1, rng=rng)
        self.down1 = ResBlock(m, 2 * m, time_dim, rng=rng)
        self.pool1 = Downsample(2 * m, rng=rng)
        self.down2 = ResBlock(2 * m, 4 * m, time_dim, rng=rng)
        self.pool2 = Downsample(4 * m, rng=rng)
        self.down3 = ResBlock(4 * m, 4 * m, time_dim, rng=rng)
        self.mid1 = ResBlock(4 * m, 4 * m, time_dim, rng=rng)
        self.mid2 = ResBlock(4 * m, 4 * m, time_dim, rng=rng)
        self.up3 = ResBlock(8 * m, 4 * m, time_dim, rng=rng)
        self.upsample2 = Upsample(4 * m, rng=rng)
        self.up2 = ResBlock(8 * m, 2 * m, time_dim, rng=rng)
        self.upsample1 = Upsample(2 * m, rng=rng)
        self.up1 = ResBlock(4 * m, m, time_dim, rng=rng)
        self.final_norm = GroupNorm(min(8, m), m, rng=rng)
        self.final_conv = Conv2d(m, out_channels, 3, padding=1, rng=rng)
        self.label_embedding = None if num_classes is None else Embedding(num_classes + 1, time_dim, rng=rng)
        self.mid_attention = SelfAttention(4 * m, heads=heads, rng=rng) if attention else None
        self.mid_cross_attention = (
            None if context_dim is None else CrossAttention(4 * m, context_dim, heads=heads, rng=rng)
        )

    @property
    def null_label(self) -> int | None:
        """The label that stands for "any class"; None without classes."""
        classes: int | None = self.config["num_classes"]
        return classes

    def __call__(self, x: Any, timesteps: Any, context: Any = None, *, labels: Any = None) -> Any:
        """(N, in_channels, H, W) -> (N, out_channels, H, W).

        Parameters
        ----------
        x : array, shape (N, in_channels, H, W)
            H and W must divide by 4.
        timesteps : int or array, shape (N,)
            In training steps.
        context : array, shape (N, L, context_dim), optional
            Needed if, and only if, the network was made with `context_dim`.
        labels : int or array of integers, shape (N,), optional
            Classes; the null label by default. Only if the network was made with `num_classes`.

        Raises
        ------
        TypeError
            If x is not floating.
        ValueError
            If shapes do not fit, or a condition is missing or unexpected.
        IndexError
            If a label is outside 0 to num_classes.
        """
        self._check(x, context, labels)
        time = self._time(x, timesteps, labels)
        h = self.init_conv(x)
        skip1 = self.down1(h, time)
        skip2 = self.down2(self.pool1(skip1), time)
        skip3 = self.down3(self.pool2(skip2), time)
        h = self.mid1(skip3, time)
        if self.mid_attention:
            h = self.mid_attention(h)
        if self.mid_cross_attention:
            h = self.mid_cross_attention(h, context)
        h = self.mid2(h, time)
        h = self.up3(ops.concat([h, skip3], axis=1), time)
        h = self.up2(ops.concat([self.upsample2(h), skip2], axis=1), time)
        h = self.up1(ops.concat([self.upsample1(h), skip1], axis=1), time)
        return self.final_conv(self.final_norm(h, activation="silu"))

    def _time(self, x: Any, timesteps: Any, labels: Any) -> Any:
        """The time embedding (N, 4 model_channels), with the class embedding added."""
        t = timestep_embedding(per_image("UNet", x, timesteps, "timesteps"), self.config["model_channels"])
        h = self.time_mlp2(ops.silu(self.time_mlp1(ops.astype(t, x.dtype, copy=False))))
        if self.label_embedding is None:
            return h
        classes = per_image("UNet", x, self.null_label if labels is None else labels, "labels")
        return ops.add(h, ops.astype(self.label_embedding(classes), x.dtype, copy=False))

    def _check(self, x: Any, context: Any, labels: Any) -> None:
        channels, width = self.config["in_channels"], self.config["context_dim"]
        check_floating("UNet", x=x)
        if len(x.shape) != 4 or x.shape[1] != channels:
            raise ValueError(f"UNet: expected images (N, {channels}, H, W), got shape {tuple(x.shape)}")
        if x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError(
                f"UNet: sides must divide by 4, got {x.shape[2]} x {x.shape[3]} pixels; pad or resize the images"
            )
        if labels is not None and self.label_embedding is None:
            raise ValueError("UNet: labels were given, but the network was made without num_classes")
        if (context is None) != (width is None):
            given = "no context" if context is None else "a context"
            raise ValueError(f"UNet: {given} was given, but the network was made with context_dim={width}")
        if context is not None and (
            len(context.shape) != 3 or context.shape[0] != x.shape[0] or context.shape[2] != width
        ):
            raise ValueError(
                f"UNet: expected a context ({x.shape[0]}, L, {width}), got shape {tuple(context.shape)}"
            )
