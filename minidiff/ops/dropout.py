"""Dropout."""

from __future__ import annotations

from typing import Any

from minidiff.ops.elementwise import multiply
from minidiff.ops.support import find_dtype
from minidiff.random import Generator


def dropout(x: Any, p: float, *, rng: Generator) -> Any:
    """Set each element to 0 with probability `p`, and divide the others by 1 - p [1]_.

    Parameters
    ----------
    x : array
    p : float
        From 0 up to, but not including, 1.
    rng : Generator
        On the device of x.

    Raises
    ------
    ValueError
        If `p` is outside [0, 1).

    References
    ----------
    .. [1] Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be in [0, 1), got {p}")
    xp = rng.backend.xp
    kept = rng.uniform(tuple(x.shape)) >= p
    return multiply(x, xp.astype(xp.astype(kept, xp.float32) / (1 - p), find_dtype(xp, x.dtype)))
