"""Networks. Each holds its constructor's arguments in `config`, so that a checkpoint can make it again."""

from minidiff.models.simple_denoiser import SimpleDenoiser
from minidiff.models.unet import UNet
from minidiff.models.unet_2d import UNet2DModel
from minidiff.nn import MLP

__all__ = ["MLP", "SimpleDenoiser", "UNet", "UNet2DModel"]
