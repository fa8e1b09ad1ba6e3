"""A step of a sampler in one launch: the clean image that the network sees, and the image with less noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.alike import alike, dense, empty_alike
from minidiff_cupy.memory import Array, served, type_of, vector_width

__all__ = ["sampler_step"]

_THREADS = 256


def sampler_step(
    xp: Any,
    output: Array,
    sample: Array,
    noise: Array | None,
    *,
    clean: tuple[float, float],
    limit: float,
    following: tuple[float, float, float, float],
) -> Any:
    """x_0 = clip(a output + b sample) and the next image, c x_0 + d sample + e output + f noise.

    Every sampler whose step is linear but for the clipping is one choice of a to f: DDIM and DDPM are.

    Parameters
    ----------
    output, sample, noise : array, one shape and dtype
        What the network said, the noisy image, and fresh noise, if any.
    clean : (float, float)
        a and b.
    limit : float
        x_0 is clipped to [-limit, limit]; infinity clips nothing.
    following : (float, float, float, float)
        c to f.

    Returns
    -------
    next, x_0 : array
        In memory as `output`. NotImplemented for float64, and where the dtypes differ.
    """
    if not served(output, sample, noise):
        return NotImplemented
    output = dense(xp, output)
    sample = alike(xp, sample, output)
    noise = None if noise is None else alike(xp, noise, output)
    following_image, image = (empty_alike(xp, output, output.dtype) for _ in range(2))
    if output.size:
        width = vector_width(output.size, output, sample, image)
        vectors = output.size // width
        step = np.array((*clean, limit, *following), np.float32).view("V28")[0]
        kernel = engine.load(xp, "sampling.cu", f"sampler_step<{type_of(output)}, {width}>")
        arguments = (following_image, image, output, sample, noise, step, np.int64(vectors))
        kernel((-(-vectors // _THREADS),), (_THREADS,), arguments)
    return following_image, image
