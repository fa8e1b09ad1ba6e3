"""Images out of nothing but noise: of no class, of a class, on the way from one seed to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np

from minidiff import ops
from minidiff.backend import Array, backend_of
from minidiff.pipelines.drawing import Batch, Options, draw, on_device
from minidiff.pipelines.pipeline import Pipeline
from minidiff.random import Generator

__all__ = ["generate", "interpolate", "slerp"]


def generate(
    pipeline: Pipeline,
    count: int,
    *,
    generator: Generator | Sequence[Generator],
    noise: Array = None,
    **options: Unpack[Options],
) -> Array:
    """Draw images.

    Parameters
    ----------
    pipeline : Pipeline
    count : int
        N.
    generator : Generator, or a sequence of N
        On the network's device. Of one, each image gets a child of its own (`Generator.split`), so that an image
        depends neither on `batch_size` nor on how many are drawn after it.
    noise : array, shape (N, C, H, W), optional
        Standard normal noise to begin with, in place of what the generators would draw.
    labels : sequence of int, length N, optional
        The class of each image, for a network that has classes.
    guidance : float or Guidance
        Towards the class, and past it; 1 is none, the default.
    steps : int
        Of the sampler, 50 by default.
    batch_size : int, optional
        How many images are drawn at a time; all by default.
    callback : callable, optional
        Called after each step, of each batch, as `callback(step_index, t, x, x0)`, with the images after the step
        and the clean images as predicted in it.
    progress : bool
        Show a bar.

    Returns
    -------
    array, shape (N, C, H, W)
        In [-1, 1].

    Raises
    ------
    ValueError
        If numbers of images, labels or generators, or devices, do not fit.
    """
    start = None if noise is None else on_device("noise", noise, generator, pipeline.image_shape)
    if start is not None and start.shape[0] != count:
        raise ValueError(f"noise: expected {count} images, got {start.shape[0]}")

    def run(batch: Batch) -> Array:
        x = batch.noise() if start is None else start[batch.part, ...]
        return batch.follow(x * batch.sampler.init_noise_sigma)

    return draw(pipeline, count, generator, run, **options)


def interpolate(
    pipeline: Pipeline, count: int, *, first: Generator, second: Generator, **options: Unpack[Options]
) -> Array:
    """Draw images on the way from the one that `first` would draw to the one that `second` would.

    Only the noise that sampling begins with differs. A sampler that adds noise adds the same to all of them.

    Parameters
    ----------
    pipeline : Pipeline
    count : int
        N, at least 2, with both ends.
    first, second : Generator
        On the network's device.
    **options
        See `generate`.

    Returns
    -------
    array, shape (N, C, H, W)
        In [-1, 1].
    """
    if count < 2:
        raise ValueError(f"interpolate: expected at least 2 images, the ends, got {count}")
    a, b = (generator.normal(pipeline.image_shape) for generator in (first, second))
    noise = ops.stack([slerp(a, b, i / (count - 1)) for i in range(count)])
    alike = [Generator(0, first.backend) for _ in range(count)]
    for generator in alike:
        generator.state = first.state
    return generate(pipeline, count, generator=alike, noise=noise, **options)


def slerp(a: Array, b: Array, share: float) -> Array:
    """From `a` (share 0) to `b` (share 1) along a circle, on which noise stays as strong as it is [1]_.

    Parameters
    ----------
    a, b : array, any shape

    References
    ----------
    .. [1] Shoemake, "Animating rotation with quaternion curves", 1985, doi:10.1145/325165.325242, section 3.3.
    """
    u, v = (backend_of(x).to_numpy(x).astype(np.float64).ravel() for x in (a, b))
    norms = float(np.linalg.norm(u) * np.linalg.norm(v))
    angle = math.acos(max(-1.0, min(1.0, float(u @ v) / norms))) if norms else 0.0
    if math.sin(angle) < 1e-6:  # one line through the origin: no circle, or many
        return a * (1 - share) + b * share
    return (a * math.sin((1 - share) * angle) + b * math.sin(share * angle)) / math.sin(angle)
