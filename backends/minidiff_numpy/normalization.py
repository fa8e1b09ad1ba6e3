"""group_norm, plain and with SiLU, on channels-last images, a few images at a time so that they stay in the cache.

Only the input and its statistics are remembered; the gradient centres the input again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.blocks import parts
from minidiff_numpy.layout import Array, as_nchw, channels_last, is_pixel_major, served
from minidiff_numpy.memory import empty

_COST = 75  # multiplications that take as long as one element


@lru_cache(maxsize=64)
def _averaging(pixels: int, channels: int, groups: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Matrices from pixels (L, ...) to their mean (1, ...), from channels (N, C) to groups (N, G), and back."""
    members = np.repeat(np.eye(groups, dtype=dtype), channels // groups, axis=0)  # (C, G)
    return np.full((1, pixels), 1 / max(1, pixels), dtype), members * groups / channels, members.T


def group_norm(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any,
    *,
    groups: int,
    eps: float,
    activation: str | None,
) -> Any:
    """See `minidiff.ops.group_norm`; images with learned scale and shift, in float32 or float64."""
    if x.ndim != 4 or weight is None or bias is None or not served(x, weight, bias):
        return NotImplemented
    n, c, h, w = x.shape
    pixel_major = is_pixel_major(n, h, w)
    over_pixels, into_groups, out_of_groups = _averaging(h * w, c, groups, x.dtype)

    def in_order(images: Array) -> Array:
        """(N, C, H, W) as they lie in memory: (N, L, C), or (L, N, C)."""
        image = channels_last(images)
        return image.transpose(1, 2, 0, 3).reshape(h * w, n, c) if pixel_major else image.reshape(n, h * w, c)

    def back(image: Array) -> Array:
        return as_nchw(
            image.reshape(h, w, n, c).transpose(2, 0, 1, 3) if pixel_major else image.reshape(n, h, w, c)
        )

    image = in_order(x)
    y = empty(image.shape, image.dtype)
    axis = 0 if pixel_major else 1
    mean, rest, rstd = np.empty((3, n, c), image.dtype)  # rest: what rounding took from the mean
    half = image.dtype.type(0.5)

    def some(b: slice) -> Any:
        """Images of a block among pixels in order."""
        return (slice(None), b) if pixel_major else b

    def each_pixel(z: Array) -> Array:
        """What is the same for all pixels (N, C), to be broadcast."""
        return np.expand_dims(z, axis)

    def means_of_pixels(z: Array) -> Array:
        if pixel_major:
            return (over_pixels @ z.reshape(h * w, z.shape[1] * c)).reshape(z.shape[1:])
        return (over_pixels @ z)[:, 0]

    def over_channels(z: Array) -> Array:
        return (z @ into_groups) @ out_of_groups

    def means(z: Array) -> Array:
        return over_channels(means_of_pixels(z))

    def centred(b: slice) -> Array:
        pixels = image[some(b)]
        z = lanes.scratch(0, pixels.shape, image.dtype)
        np.subtract(pixels, each_pixel(mean[b]), out=z)
        return z

    def normalize(b: slice) -> None:
        out = y[some(b)]
        mean[b] = means(image[some(b)])
        z = centred(b)
        rest[b] = means(z)
        variance = means(np.multiply(z, z, out=out)) - rest[b] ** 2
        rstd[b] = 1 / np.sqrt(variance + image.dtype.type(eps))
        scale = rstd[b] * weight
        shift = bias - rest[b] * scale
        if activation:  # z sigmoid(z) = z/2 + z/2 tanh(z/2)
            z *= each_pixel(scale * half)
            z += each_pixel(shift * half)
            np.tanh(z, out=out)
            out *= z
            out += z
        else:
            np.multiply(z, each_pixel(scale), out=out)
            out += each_pixel(shift)

    work = _COST * image.size
    blocks = parts(n, h * w * c, least=lanes.sharing(work))
    lanes.each(normalize, blocks, multiplications=work)

    def vjp(dy: Array) -> tuple[Any, Any, Any]:
        d_image = in_order(dy)
        dx = empty(image.shape, image.dtype)
        along, across = np.empty((2, n, c), image.dtype)  # sums of dz, and of dz times the normalized input

        def pull(b: slice) -> None:
            z, dz, dy = centred(b), dx[some(b)], d_image[some(b)]
            scale = rstd[b] * weight
            if activation:
                t, slope = (lanes.scratch(i, z.shape, z.dtype) for i in (1, 2))
                np.multiply(z, each_pixel(scale * half), out=slope)
                slope += each_pixel((bias - rest[b] * scale) * half)
                np.tanh(
                    slope, out=t
                )  # the slope of z sigmoid(z) is (1 + t) (1 + z/2 - z/2 t) / 2, t = tanh(z/2)
                np.multiply(slope, t, out=dz)
                slope -= dz
                slope += 1
                t += 1
                t *= half
                slope *= t
                np.multiply(slope, dy, out=dz)
            else:
                dz[...] = dy
            along[b] = h * w * means_of_pixels(dz)
            product = np.multiply(z, dz, out=lanes.scratch(2, z.shape, z.dtype))
            across[b] = rstd[b] * (h * w * means_of_pixels(product) - rest[b] * along[b])
            into_mean, into_deviation = (
                over_channels(sums * weight / (h * w)) * rstd[b] for sums in (along[b], across[b])
            )
            into_deviation *= rstd[b]
            dz *= each_pixel(scale)
            z *= each_pixel(into_deviation)
            z += each_pixel(into_mean - rest[b] * into_deviation)
            dz -= z

        lanes.each(pull, blocks, multiplications=work)
        return back(dx), across.sum(axis=0), along.sum(axis=0)

    return back(y), vjp
