"""Layers and blocks: parameters plus calls into `minidiff.ops`, on arrays of any library."""

from minidiff.nn import init
from minidiff.nn.attention import CrossAttention, SelfAttention
from minidiff.nn.blocks import MLP, ConvBlock, Downsample, ResBlock, ResidualBlock, Upsample
from minidiff.nn.layers import (
    Activation,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    GroupNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    Sequential,
)
from minidiff.nn.module import Module
from minidiff.nn.time import timestep_embedding

__all__ = [
    "MLP",
    "Activation",
    "Conv2d",
    "ConvBlock",
    "ConvTranspose2d",
    "CrossAttention",
    "Downsample",
    "Dropout",
    "Embedding",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Module",
    "RMSNorm",
    "ResBlock",
    "ResidualBlock",
    "SelfAttention",
    "Sequential",
    "Upsample",
    "init",
    "timestep_embedding",
]
