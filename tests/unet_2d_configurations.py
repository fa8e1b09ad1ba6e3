"""Configurations of `UNet2DModel` for tests: published ones, and one or two for every other thing a key can say.

Each has a small form, with the same keys but fewer channels; its weights are a function of their names, so that
diffusers' answers can be stored without them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.random import Generator

__all__ = ["CASES", "REFERENCES", "Case", "filled", "inputs", "summary", "thinned"]

REFERENCES = Path(__file__).parent / "references" / "unet_2d.npz"


@dataclass(frozen=True)
class Case:
    """A configuration: `small` replaces keys for the small form, `side` is that of its images in pixels.

    More than one pixel is left at the coarsest resolution, and a group has more than one channel: attention among one
    pixel, and what normalization takes away, have no gradient but rounding.
    """

    config: dict[str, Any]
    small: dict[str, Any] = field(default_factory=dict)
    side: tuple[int, int] = (8, 8)
    published: int | None = None  # parameters, where somebody published how many
    huge: bool = False  # too large for its gradients here

    @property
    def small_config(self) -> dict[str, Any]:
        return {**self.config, **self.small}


def blocks(kinds: str, names: dict[str, str], **options: Any) -> dict[str, Any]:
    """Types of blocks by a letter each, finest first; the up side mirrors the down side."""
    down = [names[letter] for letter in kinds]
    return {
        "down_block_types": down,
        "up_block_types": [n.replace("Down", "Up") for n in down[::-1]],
        **options,
    }


PLAIN = {"D": "DownBlock2D", "A": "AttnDownBlock2D", "R": "ResnetDownsampleBlock2D"}
SKIP = {"S": "SkipDownBlock2D", "A": "AttnSkipDownBlock2D"}
DDPM = {
    "attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
}  # fmt: skip
DDPM_256 = blocks("DDDDAD", PLAIN, block_out_channels=[128, 128, 256, 256, 512, 512], sample_size=256, **DDPM)
CONSISTENCY = {
    "attention_head_dim": 64, "attn_norm_num_groups": 32, "downsample_type": "resnet", "upsample_type": "resnet",
}  # fmt: skip
NCSNPP = {
    "attention_head_dim": None, "mid_block_scale_factor": math.sqrt(2), "norm_eps": 1e-6, "norm_num_groups": None,
    "time_embedding_type": "fourier",
}  # fmt: skip
TWO = blocks("DA", PLAIN, block_out_channels=[16, 32], norm_num_groups=8, layers_per_block=1)

CASES = {
    "google/ddpm-cifar10-32": Case(
        blocks("DADD", PLAIN, block_out_channels=[128, 256, 256, 256], sample_size=32, **DDPM),
        {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4},
        (8, 16),
        published=35_746_307,
    ),
    "google/ddpm-celebahq-256": Case(
        DDPM_256,
        {"block_out_channels": [4, 4, 8, 8, 16, 16], "norm_num_groups": 2},
        (64, 32),
        published=113_673_219,
    ),
    "google/ddpm-church-256": Case(
        DDPM_256,
        {"block_out_channels": [8, 8, 4, 8, 8, 16], "norm_num_groups": 2, "layers_per_block": 1},
        (32, 64),
        published=113_673_219,
    ),
    "CompVis/ldm-celebahq-256": Case(
        blocks("DAAA", PLAIN, block_out_channels=[224, 448, 672, 896], sample_size=64, attention_head_dim=32),
        {"block_out_channels": [8, 16, 24, 32], "norm_num_groups": 4, "attention_head_dim": 4},
        (16, 8),
        published=274_056_163,
        huge=True,
    ),
    "google/ncsnpp-ffhq-256": Case(
        blocks("SSSSASS", SKIP, block_out_channels=[128, 128, *[256] * 5], sample_size=256, **NCSNPP),
        {"block_out_channels": [8, 8, 16, 32, 32, 32, 32], "layers_per_block": 1},
        (64, 128),
    ),
    "openai/diffusers-cd_imagenet64_l2": Case(
        blocks(
            "RAAA", PLAIN, block_out_channels=[192, 384, 576, 768], sample_size=64, layers_per_block=3,
            num_class_embeds=1000, resnet_time_scale_shift="scale_shift", **CONSISTENCY,
        ),
        {
            "block_out_channels": [8, 16, 16, 24], "norm_num_groups": 4, "attn_norm_num_groups": 8,
            "attention_head_dim": 8, "num_class_embeds": 10, "layers_per_block": 1,
        },
        (8, 16),
        huge=True,
    ),
    "openai/diffusers-cd_bedroom256_l2, narrower": Case(
        blocks("RRRAAA", PLAIN, block_out_channels=[64, 64, 128, 128, 256, 256], sample_size=256, **CONSISTENCY),
        {
            "block_out_channels": [8, 8, 8, 16, 16, 16], "norm_num_groups": 4, "attn_norm_num_groups": 8,
            "attention_head_dim": 8, "layers_per_block": 1,
        },
        (32, 64),
    ),
    "skips of four kinds, filtered": Case(
        blocks(
            "SASS", SKIP, block_out_channels=[32, 64, 64, 64], layers_per_block=1, sample_size=32,
            **{**NCSNPP, "attention_head_dim": 8},
        ),
        {"block_out_channels": [32, 32, 16, 32]},
        (16, 8),
    ),
    "skips that end in attention, one-sided": Case(
        {
            "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnSkipUpBlock2D", "AttnSkipUpBlock2D"],
            "block_out_channels": [32, 64, 64], "norm_num_groups": 16, "center_input_sample": True,
        },
        {"block_out_channels": [32, 32, 32]},
    ),
    "labels": Case({**TWO, "num_class_embeds": 11, "in_channels": 1, "out_channels": 2, "freq_shift": 0.5}),
    "labels as times": Case({**TWO, "class_embed_type": "timestep", "time_embedding_dim": 24}),
    "labels as vectors": Case({**TWO, "class_embed_type": "identity", "mid_block_type": None}),
    "times learned": Case(
        {**TWO, "time_embedding_type": "learned", "num_train_timesteps": 20, "act_fn": "mish"},
    ),
    "times learned, labels as times": Case(
        {
            **TWO, "time_embedding_type": "learned", "num_train_timesteps": 20, "class_embed_type": "timestep",
            "add_attention": False, "act_fn": "relu", "downsample_padding": 0,
        },
    ),
    "scale and shift, no normalization before attention in the middle": Case(
        {**TWO, "resnet_time_scale_shift": "scale_shift", "act_fn": "gelu", "mid_block_scale_factor": 2.5},
    ),
    "widths of heads that do not divide": Case(
        blocks("DA", PLAIN, block_out_channels=[4, 8], norm_num_groups=2, attention_head_dim=3),
    ),
    "one resolution, early names": Case(
        {
            "down_block_types": ["UNetResAttnDownBlock2D"], "up_block_types": ["UNetResUpBlock2D"],
            "block_out_channels": [8], "norm_num_groups": 4, "act_fn": "swish", "attn_norm_num_groups": 2,
        },
        {},
        (5, 7),
    ),
    "every way to resize": Case(
        {
            "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
            "block_out_channels": [16, 8, 24, 16], "norm_num_groups": 4, "attention_head_dim": 4,
            "downsample_type": "resnet", "upsample_type": "conv", "dropout": 0.25,
        },
        {},
        (8, 16),
    ),
}  # fmt: skip


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray[Any, Any]]:
    """Weights that are a function of their names and shapes alone; normalizations are not at their 1 and 0."""
    weights = {}
    for name, shape in shapes.items():
        z = Generator(zlib.crc32(name.encode())).normal(shape)
        centre = float(len(shape) == 1 and name.endswith("weight") and "time_proj" not in name)
        spread = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.3
        weights[name] = np.asarray(z * spread + centre, np.float32)
    return weights


def inputs(config: Mapping[str, Any], images: int, side: tuple[int, int]) -> dict[str, np.ndarray[Any, Any]]:
    """Images x, times t, and labels if the network takes any."""
    rng, kind = Generator(5), config.get("time_embedding_type", "positional")
    times = {"fourier": np.asarray([0.6, 31.0, 4.0]), "learned": np.asarray([7, 19, 0])}.get(kind)
    given = {
        "x": np.asarray(rng.normal((images, config.get("in_channels", 3), *side))),
        "t": (np.asarray([37, 3, 250]) if times is None else times)[:images],
    }
    if config.get("class_embed_type") == "identity":
        width = config.get("time_embedding_dim") or 4 * config["block_out_channels"][0]
        given["labels"] = np.asarray(rng.normal((images, width)))
    elif config.get("class_embed_type") == "timestep" or config.get("num_class_embeds"):
        given["labels"] = np.asarray([4, 9, 0])[:images]
    return given


def summary(gradients: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """For each parameter in the order of names: the length of its gradient, and that along one random direction."""
    rows = []
    for name in sorted(gradients):
        g = np.asarray(gradients[name], np.float64)
        along = np.asarray(Generator(zlib.crc32(name.encode()) + 1).normal(g.shape), np.float64)
        rows.append((math.sqrt((g * g).sum()), (g * along).sum()))
    return np.asarray(rows)


def thinned(y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """About a thousand numbers of an output, from all over it."""
    return y.reshape(-1)[:: y.size // 1000 | 1]
