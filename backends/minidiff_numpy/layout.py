"""Images are NCHW to the reader and NHWC in memory: channels lie side by side, where matrix products want them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from minidiff_numpy.memory import empty

Array: TypeAlias = np.ndarray[Any, Any]


def channels_last(x: Array) -> Array:
    """(N, C, H, W) -> (N, H, W, C), contiguous; a copy only if the memory is not in that order already."""
    image = x.transpose(0, 2, 3, 1)
    if image.flags.c_contiguous:
        return image
    copy = empty(image.shape, image.dtype)
    copy[...] = image
    return copy


def as_nchw(x: Array) -> Array:
    """(N, H, W, C) -> (N, C, H, W), a view."""
    return x.transpose(0, 3, 1, 2)


def served(*arrays: Any) -> bool:
    """Whether these kernels compute with arrays of this kind: float32 or float64, all the same (None passes)."""
    kinds = {a.dtype for a in arrays if a is not None}
    return len(kinds) == 1 and kinds <= {np.dtype(np.float32), np.dtype(np.float64)}
