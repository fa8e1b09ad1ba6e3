"""group_norm, plain and with SiLU, on channels-last images, a few images at a time so that they stay in the cache.

Only the input and its statistics are remembered; the gradient centres the input again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.blocks import parts
from minidiff_numpy.layout import (
    Array,
    as_nchw,
    channels_last,
    empty_images,
    in_order,
    is_pixel_major,
    served,
)

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

    def pixels_of(images: Array) -> Array:
        """(N, C, H, W) -> (L, N, C), a view if memory is as it should be."""
        image = channels_last(images)
        if pixel_major:
            return in_order(image, pixel_major=True).reshape(h * w, n, c)
        return image.reshape(n, h * w, c).swapaxes(0, 1)

    def buffer(number: int, size: int) -> Array:
        """A lane's buffer (L, size, C), in memory like pixels."""
        if pixel_major:
            return lanes.scratch(number, (h * w, size, c), x.dtype)
        return lanes.scratch(number, (size, h * w, c), x.dtype).swapaxes(0, 1)

    def means_of_pixels(z: Array) -> Array:
        if pixel_major:
            return (over_pixels @ z.reshape(h * w, z.shape[1] * c)).reshape(z.shape[1:])
        return (over_pixels @ z.swapaxes(0, 1))[:, 0]

    def over_channels(z: Array) -> Array:
        return (z @ into_groups) @ out_of_groups

    def means(z: Array) -> Array:
        return over_channels(means_of_pixels(z))

    pixels, y = pixels_of(x), as_nchw(empty_images((n, h, w, c), x.dtype))
    pixels_of_y = pixels_of(y)
    mean, rest, rstd = np.empty((3, n, c), x.dtype)  # rest: what rounding took from the mean
    half = x.dtype.type(0.5)

    def centred(b: slice) -> Array:
        z = buffer(0, len(mean[b]))
        np.subtract(pixels[:, b], mean[b], out=z)
        return z

    def normalize(b: slice) -> None:
        out = pixels_of_y[:, b]
        mean[b] = means(pixels[:, b])
        z = centred(b)
        rest[b] = means(z)
        variance = means(np.multiply(z, z, out=out)) - rest[b] ** 2
        rstd[b] = 1 / np.sqrt(variance + x.dtype.type(eps))
        scale = rstd[b] * weight
        shift = bias - rest[b] * scale
        if activation:  # z sigmoid(z) = z/2 + z/2 tanh(z/2)
            z *= scale * half
            z += shift * half
            np.tanh(z, out=out)
            out *= z
            out += z
        else:
            np.multiply(z, scale, out=out)
            out += shift

    work = _COST * x.size
    blocks = parts(n, h * w * c, least=lanes.sharing(work))
    lanes.each(normalize, blocks, multiplications=work)

    def vjp(dy: Array) -> tuple[Any, Any, Any]:
        dx = as_nchw(empty_images((n, h, w, c), x.dtype))
        pixels_of_dx, pixels_of_dy = pixels_of(dx), pixels_of(dy)
        along, across = np.empty((2, n, c), x.dtype)  # sums of dz, and of dz times the normalized input

        def pull(b: slice) -> None:
            z, dz, size = centred(b), pixels_of_dx[:, b], len(mean[b])
            scale = rstd[b] * weight
            if activation:  # the slope of z sigmoid(z) is (1 + t) (1 + z/2 - z/2 t) / 2, t = tanh(z/2)
                t, slope = buffer(1, size), buffer(2, size)
                np.multiply(z, scale * half, out=slope)
                slope += (bias - rest[b] * scale) * half
                np.tanh(slope, out=t)
                np.multiply(slope, t, out=dz)
                slope -= dz
                slope += 1
                t += 1
                t *= half
                slope *= t
                np.multiply(slope, pixels_of_dy[:, b], out=dz)
            else:
                dz[...] = pixels_of_dy[:, b]
            along[b] = h * w * means_of_pixels(dz)
            product = np.multiply(z, dz, out=buffer(2, size))
            across[b] = rstd[b] * (h * w * means_of_pixels(product) - rest[b] * along[b])
            into_mean, into_deviation = (
                over_channels(sums * weight / max(1, h * w)) * rstd[b] for sums in (along[b], across[b])
            )
            into_deviation *= rstd[b]
            dz *= scale
            z *= into_deviation
            z += into_mean - rest[b] * into_deviation
            dz -= z

        lanes.each(pull, blocks, multiplications=work)
        return dx, across.sum(axis=0), along.sum(axis=0)

    return y, vjp
