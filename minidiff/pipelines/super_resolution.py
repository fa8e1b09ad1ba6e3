"""Large images out of small ones, by a network that sees the small image beside the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from minidiff import ops
from minidiff.backend import Array
from minidiff.pipelines.drawing import Batch, Options, draw, pictures
from minidiff.pipelines.pipeline import Pipeline
from minidiff.random import Generator

__all__ = ["super_resolution"]


def super_resolution(
    pipeline: Pipeline,
    images: Array,
    *,
    generator: Generator | Sequence[Generator],
    **options: Unpack[Options],
) -> Array:
    """Draw large images of which `images` are small versions [1]_.

    Parameters
    ----------
    pipeline : Pipeline
        Its network takes the noisy image and, in further channels, the small one, enlarged to the same size.
    images : array, shape (N, c, h, w)
        In [-1, 1], of any array library. Enlarged bilinearly, by a whole number; or as large as what is drawn, and
        used as they are.
    generator : Generator, or a sequence of N
    **options
        See `generate`.

    Returns
    -------
    array, shape (N, C, H, W)
        In [-1, 1].

    Raises
    ------
    ValueError
        If sides do not fit.

    References
    ----------
    .. [1] Saharia et al., "Image super-resolution via iterative refinement", 2021, arXiv:2104.07636, section 2.
    """
    small = pictures(images, generator, (None, None, None))
    _, height, width = pipeline.image_shape
    scale = height // small.shape[2]
    if scale < 1 or (scale * small.shape[2], scale * small.shape[3]) != (height, width):
        raise ValueError(
            f"super_resolution: {small.shape[2]} x {small.shape[3]} pixels are not {height} x {width} "
            "divided by a whole number"
        )
    beside = ops.upsample2d(small, scale, mode="bilinear") if scale > 1 else small

    def run(batch: Batch) -> Array:
        return batch.follow(batch.noise() * batch.sampler.init_noise_sigma)

    return draw(pipeline, small.shape[0], generator, run, beside=beside, **options)
