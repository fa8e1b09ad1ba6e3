"""Limits on a predicted clean image: a fixed range, or one that follows each image."""

from __future__ import annotations

from minidiff import ops
from minidiff.backend import Array, backend_of
from minidiff.ops.support import cast, is_half, widen

__all__ = ["dynamic_threshold"]


def dynamic_threshold(x0: Array, ratio: float, largest: float) -> Array:
    """Clip each image at the quantile of its absolute values, and divide by it (section 2.3 of [1]_).

    Parameters
    ----------
    x0 : array, shape (N, ...)
    ratio : float
        Which quantile, from 0 to 1, interpolated between two values.
    largest : float
        The quantile is taken as 1 where it is below, and as this where it is above.

    References
    ----------
    .. [1] Saharia et al., "Photorealistic text-to-image diffusion models with deep language understanding",
       2022, arXiv:2205.11487.
    """
    xp = backend_of(x0).xp
    x = widen(xp, x0) if is_half(x0) else x0
    flat = xp.reshape(xp.abs(x), (x.shape[0], -1))
    ordered = xp.sort(flat, axis=1)
    place = ratio * (flat.shape[1] - 1)
    low = int(place)
    high = min(low + 1, flat.shape[1] - 1)
    below, above = ordered[:, low : low + 1], ordered[:, high : high + 1]
    s = xp.clip(below + (above - below) * (place - low), min=min(1.0, largest), max=largest)
    s = xp.reshape(s, (x.shape[0],) + (1,) * (x.ndim - 1))
    return cast(xp, ops.clip(x / s, -1.0, 1.0), x0)
