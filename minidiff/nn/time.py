"""The time of the diffusion process as a vector."""

from __future__ import annotations

import math
from typing import Any

from minidiff.backend import Array, backend_of

__all__ = ["timestep_embedding"]


def timestep_embedding(timesteps: Any, width: int) -> Array:
    r"""Sines, then cosines, of time at `width / 2` frequencies [1]_.

    .. math:: f_i = 10000^{-i / (w/2 - 1)}, \quad e = (\sin(t f_0), \dots, \cos(t f_0), \dots)

    Parameters
    ----------
    timesteps : array, shape (N,)
        Integers or floats, in training steps.
    width : int
        w, even.

    Returns
    -------
    array, shape (N, width), float32
        Computed in float64, so that all libraries agree.

    Raises
    ------
    ValueError
        If `width` is odd.

    References
    ----------
    .. [1] Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, section 3.5.
    """
    if width < 2 or width % 2:
        raise ValueError(f"timestep_embedding: the width must be even, got {width}")
    xp = backend_of(timesteps).xp
    half = width // 2
    t = xp.astype(timesteps, xp.float64)
    i = xp.arange(half, dtype=xp.float64, device=t.device)
    angles = t[:, None] * xp.exp(i * (-math.log(10000) / max(half - 1, 1)))[None, :]
    return xp.astype(xp.concat((xp.sin(angles), xp.cos(angles)), axis=1), xp.float32)
