"""The first denoiser of the tutorials: an encoder, a decoder, no time."""

from __future__ import annotations

from typing import Any

from minidiff import ops
from minidiff.models.pretrained import PretrainedModule
from minidiff.nn import Conv2d
from minidiff.random import Generator

__all__ = ["SimpleDenoiser"]


class SimpleDenoiser(PretrainedModule):
    """Convolutions channels-64-128, max-pooling, nearest-neighbour enlargement, convolutions 128-64-channels.

    Parameters
    ----------
    channels : int
        Of the images.
    rng : Generator, optional
        Draws the initial values; its device is where they live. `Generator(0)` by default.
    """

    def __init__(self, channels: int = 3, *, rng: Generator | None = None) -> None:
        self.config = {"channels": channels}
        rng = rng or Generator(0)
        self.encoder1 = Conv2d(channels, 64, 3, padding=1, rng=rng)
        self.encoder2 = Conv2d(64, 128, 3, padding=1, rng=rng)
        self.decoder1 = Conv2d(128, 64, 3, padding=1, rng=rng)
        self.decoder2 = Conv2d(64, channels, 3, padding=1, rng=rng)

    def __call__(self, x: Any) -> Any:
        """(N, channels, H, W) -> the same, for even sides.

        Raises
        ------
        ValueError
            If a side is odd.
        """
        if len(x.shape) != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"SimpleDenoiser: expected images (N, C, H, W) with even sides, got {tuple(x.shape)}"
            )
        h = ops.relu(self.encoder2(ops.relu(self.encoder1(x))))
        h = ops.upsample2d(ops.max_pool2d(h, 2), 2)
        return self.decoder2(ops.relu(self.decoder1(h)))
