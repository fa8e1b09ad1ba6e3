"""The blocks of `UNet2DModel`: a table of how they differ, and one class for each side that is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minidiff import ops
from minidiff.models.unet_2d_config import DOWN_BLOCKS, IMAGE_CHANNELS, UP_BLOCKS, Kind, block_name
from minidiff.models.unet_2d_parts import Attention, Factory, Step, StridedConv, Style
from minidiff.nn import Conv2d, GroupNorm, Module, Upsample
from minidiff.nn.fir import fir_downsample2d, fir_upsample2d

__all__ = ["down_blocks", "mid_block", "plain_style", "up_blocks"]


def _quarter(channels: int) -> int:
    return min(channels // 4, 32)


FIR_STYLE = Style(_quarter, 32, math.sqrt(2))


def plain_style(groups: int | None, attention_groups: int | None, scale: float = 1.0) -> Style:
    """One number of groups everywhere; a quarter of the channels, 32 at most, where there is none."""
    return Style(_quarter if groups is None else lambda _channels: groups, attention_groups, scale)


class DownBlock(Module):
    """Residual blocks, with attention after each if the kind has it, then halving."""

    def __init__(
        self,
        kind: Kind,
        in_channels: int,
        out_channels: int,
        factory: Factory,
        *,
        layers: int,
        groups: int | None,
        resize: str,
        padding: int,
        last: bool,
    ) -> None:
        fir = kind.resize == "fir"
        style = FIR_STYLE if fir else plain_style(groups, groups)
        self.attentions = [
            factory.attention(out_channels, style) for _ in range(layers if kind.attention else 0)
        ]
        self.resnets = [
            factory.resnet(out_channels if i else in_channels, out_channels, style) for i in range(layers)
        ]
        self.downsamplers: list[Module] = []
        self.resnet_down = self.skip_conv = None
        if last:
            return
        if fir:
            self.resnet_down = factory.resnet(
                out_channels, out_channels, style, resize=fir_downsample2d, shortcut=True
            )
            self.skip_conv = Conv2d(IMAGE_CHANNELS, out_channels, 1, rng=factory.rng)
        elif (kind.resize or resize) == "resnet":
            self.downsamplers = [factory.resnet(out_channels, out_channels, style, resize=_halved)]
        else:
            self.downsamplers = [StridedConv(out_channels, padding, rng=factory.rng)]

    def __call__(self, h: Any, image: Any, step: Step) -> tuple[list[Any], Any]:
        """(N, in_channels, H, W), (N, 3, H, W) -> what each layer gives, the last of it halved; the image, halved."""
        outputs = []
        for resnet, attention in zip(self.resnets, _aligned(self.attentions, self.resnets), strict=True):
            h = step(resnet, attention, h)
            outputs.append(h)
        for downsampler in self.downsamplers:
            outputs.append(step(downsampler, None, h))
        if self.resnet_down and self.skip_conv:
            image = fir_downsample2d(image)
            outputs.append(self.skip_conv(image, residual=step(self.resnet_down, None, h)))
        return outputs, image


class MidBlock(Module):
    """A residual block, attention, and another residual block."""

    def __init__(self, channels: int, factory: Factory, style: Style, *, attention: bool) -> None:
        self.attentions = [factory.attention(channels, style)] if attention else []
        self.resnets = [factory.resnet(channels, channels, style) for _ in range(2)]

    def __call__(self, h: Any, step: Step) -> Any:
        """(N, channels, H, W) -> the same."""
        h = step(self.resnets[0], self.attentions[0] if self.attentions else None, h)
        return step(self.resnets[1], None, h)


class UpBlock(Module):
    """Residual blocks that take up what the down side kept, with attention if the kind has it, then doubling."""

    def __init__(
        self,
        kind: Kind,
        in_channels: int,
        out_channels: int,
        kept: list[int],
        factory: Factory,
        *,
        groups: int | None,
        resize: str,
        last: bool,
    ) -> None:
        fir = kind.resize == "fir"
        style = FIR_STYLE if fir else plain_style(groups, groups)
        times = (1 if fir else len(kept)) if kind.attention else 0
        self.attentions = [factory.attention(out_channels, style) for _ in range(times)]
        self.resnets = []
        for i, skip in enumerate(kept):
            width = out_channels if i else in_channels
            # diffusers divides by four before it adds here; published weights were made for that
            groups_in = min(width + skip // 4, 32) if fir and kind.attention else None
            self.resnets.append(factory.resnet(width + skip, out_channels, style, groups_in=groups_in))
        self.upsamplers: list[Module] = []
        self.fir, self.resnet_up = fir, None
        if last:
            return
        if fir:
            self.resnet_up = factory.resnet(
                out_channels, out_channels, style, resize=fir_upsample2d, shortcut=True
            )
            self.skip_conv = Conv2d(out_channels, IMAGE_CHANNELS, 3, padding=1, rng=factory.rng)
            self.skip_norm = GroupNorm(_quarter(out_channels), out_channels, eps=factory.eps, rng=factory.rng)
        elif (kind.resize or resize) == "resnet":
            self.upsamplers = [factory.resnet(out_channels, out_channels, style, resize=_doubled)]
        else:
            self.upsamplers = [Upsample(out_channels, rng=factory.rng)]

    def __call__(self, h: Any, kept: list[Any], image: Any, step: Step) -> tuple[Any, Any]:
        """(N, in_channels, H, W), what is left of the down side -> (N, out_channels, 2 H, 2 W); the image so far."""
        for resnet, attention in zip(self.resnets, _aligned(self.attentions, self.resnets), strict=True):
            h = step(resnet, attention, h, kept.pop())
        if self.fir and image is not None:
            image = fir_upsample2d(image)
        if self.resnet_up:
            image = self.skip_conv(self.skip_norm(h, activation="silu"), residual=image)
            h = step(self.resnet_up, None, h)
        for upsampler in self.upsamplers:
            h = step(upsampler, None, h)
        return h, image


def _aligned(attentions: list[Attention], resnets: list[Any]) -> list[Attention | None]:
    """Which attention follows which block: all have one, none has, or only the last."""
    return [*[None] * (len(resnets) - len(attentions)), *attentions]


def _halved(x: Any) -> Any:
    return ops.avg_pool2d(x, 2)


def _doubled(x: Any) -> Any:
    return ops.upsample2d(x, 2)


def down_blocks(c: Mapping[str, Any], factory: Factory) -> tuple[list[DownBlock], list[int]]:
    """The blocks of a configuration, finest first, and the channels of all that the up side will take up."""
    widths, layers = c["block_out_channels"], c["layers_per_block"]
    blocks, kept = [], widths[:1]
    for i, name in enumerate(c["down_block_types"]):
        last = i == len(widths) - 1
        blocks.append(
            DownBlock(
                DOWN_BLOCKS[block_name(name)],
                kept[-1],
                widths[i],
                factory,
                layers=layers,
                groups=c["norm_num_groups"],
                resize=c["downsample_type"],
                padding=c["downsample_padding"],
                last=last,
            )
        )
        kept = kept + [widths[i]] * (layers if last else layers + 1)
    return blocks, kept


def mid_block(c: Mapping[str, Any], factory: Factory) -> MidBlock | None:
    """The block in the middle, if the configuration has one."""
    if c["mid_block_type"] is None:
        return None
    channels, groups = c["block_out_channels"][-1], c["norm_num_groups"]
    attention_groups = c["attn_norm_num_groups"]
    style = plain_style(groups, attention_groups, c["mid_block_scale_factor"])
    if attention_groups is None and not factory.scale_shift:
        style = replace(style, attention_groups=style.groups(channels))
    return MidBlock(channels, factory, style, attention=c["add_attention"])


def up_blocks(c: Mapping[str, Any], factory: Factory, kept: list[int]) -> list[UpBlock]:
    """The blocks of a configuration, finest last."""
    widths, count = c["block_out_channels"][::-1], c["layers_per_block"] + 1
    blocks, kept = [], kept[::-1]
    for i, name in enumerate(c["up_block_types"]):
        blocks.append(
            UpBlock(
                UP_BLOCKS[block_name(name)],
                widths[max(i - 1, 0)],
                widths[i],
                kept[count * i : count * (i + 1)],
                factory,
                groups=c["norm_num_groups"],
                resize=c["upsample_type"],
                last=i == len(widths) - 1,
            )
        )
    return blocks
