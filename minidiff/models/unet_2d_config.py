"""What a configuration of `UNet2DModel` may say: the types of blocks, and checks before anything is built."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from minidiff.models.unet_2d_parts import ACTIVATIONS

__all__ = ["DOWN_BLOCKS", "IMAGE_CHANNELS", "UP_BLOCKS", "Kind", "block_name", "check_config"]


@dataclass(frozen=True)
class Kind:
    """How a type of block differs from the others.

    `resize` is how it changes the size of images: "conv", "resnet", None for what the configuration says, or "fir",
    the filtered way of NCSN++ [1]_, in which a small image runs beside the blocks.

    References
    ----------
    .. [1] Song et al., "Score-based generative modeling through stochastic differential equations", 2021,
       arXiv:2011.13456, appendix H.
    """

    resize: str | None
    attention: bool = False


DOWN_BLOCKS = {
    "DownBlock2D": Kind("conv"),
    "AttnDownBlock2D": Kind(None, attention=True),
    "ResnetDownsampleBlock2D": Kind("resnet"),
    "SkipDownBlock2D": Kind("fir"),
    "AttnSkipDownBlock2D": Kind("fir", attention=True),
}
UP_BLOCKS = {name.replace("Down", "Up"): kind for name, kind in DOWN_BLOCKS.items()}
IMAGE_CHANNELS = 3  # of the image that runs beside "fir" blocks

_CHOICES: dict[str, Collection[Any]] = {
    "time_embedding_type": ("positional", "fourier", "learned"),
    "mid_block_type": ("UNetMidBlock2D", None),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "downsample_padding": (0, 1),
    "act_fn": ACTIVATIONS,
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None, "timestep", "identity"),
}
_LISTS = ("block_out_channels", "down_block_types", "up_block_types")
_COUNTS = ("in_channels", "out_channels", "block_out_channels", "layers_per_block")
_NUMBERS = ("dropout", "freq_shift", "mid_block_scale_factor", "norm_eps")
_COUNTS_OR_NONE = (
    "time_embedding_dim",
    "attention_head_dim",
    "norm_num_groups",
    "attn_norm_num_groups",
    "num_class_embeds",
)


def block_name(name: str) -> str:
    """The name of a type of block; early checkpoints say "UNetResDownBlock2D" for "DownBlock2D"."""
    return name.removeprefix("UNetRes")


def check_config(c: Mapping[str, Any]) -> None:
    """Raise ValueError with what is wrong and what would be right."""
    for key, choices in _CHOICES.items():
        if c[key] not in choices:
            raise ValueError(f"UNet2DModel: {key}={c[key]!r}; it is one of {_listed(choices)}")
    for key in _LISTS:
        if not isinstance(c[key], list):
            raise ValueError(
                f"UNet2DModel: {key} must be a list, one entry for each resolution, got {c[key]!r}"
            )
    lengths = {key: len(c[key]) for key in _LISTS}
    if len(set(lengths.values())) > 1 or not c["block_out_channels"]:
        raise ValueError(
            "UNet2DModel: one entry for each resolution is needed, got "
            + ", ".join(f"{n} {key}" for key, n in lengths.items())
        )
    _check_numbers(c)
    for key, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        for name in c[key]:
            if block_name(name) not in known:
                raise ValueError(f"UNet2DModel: unknown type {name!r} in {key}; one of {_listed(known)}")
            if known[block_name(name)].resize != "fir" and c["norm_num_groups"] is None:
                raise ValueError(f"UNet2DModel: {name} needs norm_num_groups, which is None")
    if c["time_embedding_type"] == "learned" and not c["num_train_timesteps"]:
        raise ValueError("UNet2DModel: time_embedding_type='learned' needs num_train_timesteps")
    _check_image_beside(c)


def _check_numbers(c: Mapping[str, Any]) -> None:
    for key in (*_COUNTS, *_COUNTS_OR_NONE):
        for count in c[key] if key in _LISTS else [c[key]]:
            none = count is None and key in _COUNTS_OR_NONE
            if not none and (not isinstance(count, Integral) or count < 1):
                raise ValueError(f"UNet2DModel: {key} must be 1 at least, got {c[key]}")
    for key in _NUMBERS:
        if not isinstance(c[key], Real):
            raise ValueError(f"UNet2DModel: {key} must be a number, got {c[key]!r}")
    if not c["mid_block_scale_factor"] or c["norm_eps"] < 0:
        raise ValueError(
            "UNet2DModel: mid_block_scale_factor must not be 0 and norm_eps not negative, "
            f"got {c['mid_block_scale_factor']} and {c['norm_eps']}"
        )


def _check_image_beside(c: Mapping[str, Any]) -> None:
    """The small image beside "fir" blocks starts at the first block, ends at the last, and has three channels."""
    down = [DOWN_BLOCKS[block_name(name)].resize == "fir" for name in c["down_block_types"][:-1]]
    up = [UP_BLOCKS[block_name(name)].resize == "fir" for name in c["up_block_types"]]
    up = up if any(up[:-1]) else []
    for key, filtered in (("down_block_types", down), ("up_block_types", up[::-1])):
        if filtered != sorted(filtered, reverse=True):
            side = "first" if key == "down_block_types" else "last"
            raise ValueError(
                f"UNet2DModel: the Skip blocks of {key} must be the {side} ones without a gap, got {_listed(c[key])}"
            )
    for key, filtered in (("in_channels", down), ("out_channels", up)):
        if any(filtered) and c[key] != IMAGE_CHANNELS:
            raise ValueError(f"UNet2DModel: Skip blocks work on images of 3 channels, {key} is {c[key]}")


def _listed(names: Collection[Any]) -> str:
    return ", ".join(str(name) for name in names)
