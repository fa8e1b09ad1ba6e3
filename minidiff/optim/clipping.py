"""Gradient clipping: one bad batch shall not undo a thousand good ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from minidiff.backend import Array, backend_of
from minidiff.optim import rules

__all__ = ["clip_gradients"]


def clip_gradients(grads: Mapping[str, Array], max_norm: float) -> tuple[dict[str, Array], float]:
    """Scale all gradients by one factor, so that their common norm is at most `max_norm` [1]_.

    Parameters
    ----------
    grads : mapping of str to array
    max_norm : float
        Above 0. Infinity clips nothing, and so measures the norm.

    Returns
    -------
    grads : dict of str to array
        New arrays if they were scaled. Of the same values if the norm is not finite, which is the caller's to notice.
    norm : float
        Euclidean norm before clipping, accumulated in float32 at least. Reading it waits for a GPU.

    Raises
    ------
    ValueError
        If `max_norm` is not above 0.

    References
    ----------
    .. [1] Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013,
       arXiv:1211.5063, algorithm 1.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_gradients: max_norm must be above 0, got {max_norm}")
    if not grads:
        return {}, 0.0
    arrays = list(grads.values())
    backend = backend_of(arrays[0])
    kernel = backend.kernels.get("clip_all")
    result = kernel(backend.xp, arrays, max_norm=max_norm) if kernel else NotImplemented
    squares, clipped = (
        rules.clip_all(backend.xp, arrays, max_norm=max_norm) if result is NotImplemented else result
    )
    return dict(zip(grads, clipped, strict=True)), math.sqrt(float(squares))
