"""Whole loops that diffusers has run, too: their networks, samplers and seeds; the images are in `tests/references`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minidiff.diffusion import DDIM, DDPM, Sampler
from minidiff.models import UNet2DModel
from minidiff.pipelines import Pipeline
from minidiff.random import Generator

IMAGES = Path(__file__).parent / "references" / "pipelines.npz"
SEEDS = (5, 6)
STEPS = 20

SMALL: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
CIFAR10: dict[str, Any] = {  # google/ddpm-cifar10-32: 35,746,307 parameters
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
SAMPLERS: dict[str, Sampler] = {
    "ddpm": DDPM(beta_schedule="cosine", variance_type="fixed_large"),
    "ddpm trailing v": DDPM(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False),
    "ddim trailing v": DDIM(timestep_spacing="trailing", prediction_type="v_prediction"),
    "ddim offset": DDIM(set_alpha_to_one=False, steps_offset=1),
    "ddim eta": DDIM(eta=1.0),
}


def calm_pipeline(sampler: Sampler, config: dict[str, Any], seed: int = 1) -> Pipeline:
    """A network whose output is small: with weights as drawn, 50 steps amplify rounding a millionfold."""
    model = UNet2DModel(**config, rng=Generator(seed))
    model.conv_out.weight.data = model.conv_out.weight.data / 100
    return Pipeline(model, sampler)


def generators(count: int = len(SEEDS)) -> list[Generator]:
    """One for each image."""
    return [Generator(seed) for seed in SEEDS[:count]]
