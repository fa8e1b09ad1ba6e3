"""group_norm, plain and with SiLU, on channels-last images, a few images at a time so that they stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array, as_nchw, channels_last, served

_BLOCK = 1 << 16  # elements
_COST = 200  # multiplications that take as long as one element


def _blocks(x: Array) -> Iterator[slice]:
    step = max(1, min(_BLOCK // max(1, x[:1].size), -(-x.shape[0] // lanes.count())))
    return (slice(n, n + step) for n in range(0, x.shape[0], step))


def _sum_positions(x: Array) -> Array:
    """(N, L, C) -> (N, 1, C), as a matrix product."""
    sums: Array = np.matmul(np.ones((1, x.shape[1]), x.dtype), x)
    return sums


def _group_means(sums: Array, groups: int, count: int) -> Array:
    """Per-channel sums (N, 1, C) -> the mean over each channel's group of `count` elements, (N, 1, C)."""
    n, _, c = sums.shape
    means = sums.reshape(n, groups, c // groups).sum(axis=2) / sums.dtype.type(count)
    return np.repeat(means, c // groups, axis=1)[:, None, :]


def _add_silu(z: Array) -> Array:
    """Z * sigmoid(z), written over z."""
    z *= 0.5
    t = np.tanh(z)
    t *= z
    z += t
    return z


def _silu_slope(z: Array) -> Array:
    """The derivative of z * sigmoid(z), s (1 + z (1 - s)); z is written over."""
    s = np.tanh(0.5 * z)
    s *= 0.5
    s += 0.5
    z *= 1 - s
    z += 1
    z *= s
    return z


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
    count = h * w * c // groups
    x_hat, y, rstd = np.empty_like(image), np.empty_like(image), np.empty((n, 1, c), image.dtype)

    def normalize(b: slice) -> None:
        centred = np.subtract(image[b], _group_means(_sum_positions(image[b]), groups, count), out=x_hat[b])
        centred -= _group_means(_sum_positions(centred), groups, count)  # what rounding took from the mean
        np.multiply(centred, centred, out=y[b])
        rstd[b] = 1 / np.sqrt(_group_means(_sum_positions(y[b]), groups, count) + image.dtype.type(eps))
        centred *= rstd[b]
        np.multiply(centred, weight, out=y[b])
        y[b] += bias
        if activation:
            _add_silu(y[b])

    lanes.each(normalize, _blocks(image), multiplications=_COST * image.size)

    def vjp(dy: Array) -> tuple[Any, Any, Any]:
        d_image = channels_last(dy).reshape(n, h * w, c)
        dx = np.empty_like(x_hat)
        along, across = np.empty((2, n, 1, c), x_hat.dtype)

        def pull(b: slice) -> None:
            dz = dx[b]
            if activation:
                z = x_hat[b] * weight
                z += bias
                np.multiply(d_image[b], _silu_slope(z), out=dz)
            else:
                dz[...] = d_image[b]
            along[b], across[b] = _sum_positions(dz), _sum_positions(dz * x_hat[b])
            dz *= weight
            dz -= _group_means(along[b] * weight, groups, count)
            dz -= x_hat[b] * _group_means(across[b] * weight, groups, count)
            dz *= rstd[b]

        lanes.each(pull, _blocks(x_hat), multiplications=_COST * x_hat.size)
        return as_nchw(dx.reshape(n, h, w, c)), across.sum(axis=(0, 1)), along.sum(axis=(0, 1))

    return as_nchw(y.reshape(n, h, w, c)), vjp
