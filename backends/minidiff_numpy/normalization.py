"""group_norm, plain and with SiLU, on channels-last images, a few images at a time so that they stay in the cache.

Only the input and its statistics are remembered; the gradient centres the input again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.blocks import parts
from minidiff_numpy.layout import Array, as_nchw, channels_last, served
from minidiff_numpy.memory import empty_like

_COST = 200  # multiplications that take as long as one element


@lru_cache(maxsize=64)
def _averaging(pixels: int, channels: int, groups: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Matrices that make of an image (L, C) the means of its channels (1, C), of groups (1, G), and (1, C) again."""
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
    image = channels_last(x).reshape(n, h * w, c)
    over_pixels, into_groups, out_of_groups = _averaging(h * w, c, groups, image.dtype)
    y = empty_like(image)
    mean, rest, rstd = np.empty((3, n, 1, c), image.dtype)  # rest: what rounding took from the mean
    half = image.dtype.type(0.5)

    def over_channels(z: Array) -> Array:
        return (z @ into_groups) @ out_of_groups

    def means(z: Array) -> Array:
        return over_channels(over_pixels @ z)

    def centred(b: slice) -> Array:
        z = lanes.scratch(0, image[b].shape, image.dtype)
        np.subtract(image[b], mean[b], out=z)
        return z

    def normalize(b: slice) -> None:
        mean[b] = means(image[b])
        z = centred(b)
        rest[b] = means(z)
        variance = means(np.multiply(z, z, out=y[b])) - rest[b] ** 2
        rstd[b] = 1 / np.sqrt(variance + image.dtype.type(eps))
        scale = rstd[b] * weight
        shift = bias - rest[b] * scale
        if activation:  # z sigmoid(z) = z/2 + z/2 tanh(z/2)
            z *= scale * half
            z += shift * half
            np.tanh(z, out=y[b])
            y[b] *= z
            y[b] += z
        else:
            np.multiply(z, scale, out=y[b])
            y[b] += shift

    blocks = parts(n, h * w * c, least=lanes.count())
    lanes.each(normalize, blocks, multiplications=_COST * image.size)

    def vjp(dy: Array) -> tuple[Any, Any, Any]:
        d_image = channels_last(dy).reshape(n, h * w, c)
        dx = empty_like(image)
        along, across = np.empty(
            (2, n, 1, c), image.dtype
        )  # sums of dz, and of dz times the normalized input

        def pull(b: slice) -> None:
            z, dz = centred(b), dx[b]
            scale = rstd[b] * weight
            if activation:
                t, slope = (lanes.scratch(i, z.shape, z.dtype) for i in (1, 2))
                np.multiply(z, scale * half, out=slope)
                slope += (bias - rest[b] * scale) * half
                np.tanh(
                    slope, out=t
                )  # the slope of z sigmoid(z) is (1 + t) (1 + z/2 - z/2 t) / 2, t = tanh(z/2)
                np.multiply(slope, t, out=dz)
                slope -= dz
                slope += 1
                t += 1
                t *= half
                slope *= t
                np.multiply(slope, d_image[b], out=dz)
            else:
                dz[...] = d_image[b]
            along[b] = h * w * (over_pixels @ dz)
            product = np.multiply(z, dz, out=lanes.scratch(2, z.shape, z.dtype))
            across[b] = rstd[b] * (h * w * (over_pixels @ product) - rest[b] * along[b])
            into_mean, into_deviation = (
                over_channels(sums * weight / (h * w)) * rstd[b] for sums in (along[b], across[b])
            )
            into_deviation *= rstd[b]
            dz *= scale
            z *= into_deviation
            z += into_mean - rest[b] * into_deviation
            dz -= z

        lanes.each(pull, blocks, multiplications=_COST * image.size)
        return as_nchw(dx.reshape(n, h, w, c)), across.sum(axis=(0, 1)), along.sum(axis=(0, 1))

    return as_nchw(y.reshape(n, h, w, c)), vjp
