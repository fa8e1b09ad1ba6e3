"""Images are NCHW to the reader. In memory channels lie side by side, where matrix products want them.

Mostly that is NHWC. Images of few pixels, in a batch, are HWNC: what happens to a pixel then happens to that pixel of
all images in one go, instead of in many calls for a few numbers each. Which of the two it is follows from the shape
alone; both are handled as arrays (N, H, W, C), contiguous in their order.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from minidiff_numpy import memory

Array: TypeAlias = np.ndarray[Any, Any]

_FEW_PIXELS = 64
_BATCH = 16


def is_pixel_major(images: int, height: int, width: int) -> bool:
    """Whether a batch of images of that size is HWNC in memory."""
    return images >= _BATCH and height * width <= _FEW_PIXELS


def empty_images(shape: tuple[int, ...], dtype: Any, *, pixel_major: bool | None = None) -> Array:
    """Images (N, H, W, C) with whatever is in their memory, whose order follows from the shape unless it is given."""
    n, h, w, c = shape
    if is_pixel_major(n, h, w) if pixel_major is None else pixel_major:
        return memory.empty((h, w, n, c), dtype).transpose(2, 0, 1, 3)
    return memory.empty((n, h, w, c), dtype)


def in_order(image: Array, *, pixel_major: bool) -> Array:
    """Images (N, H, W, C) with their axes as in memory, (H, W, N, C) if they are HWNC: a view."""
    return image.transpose(1, 2, 0, 3) if pixel_major else image


def channels_last(x: Array) -> Array:
    """(N, C, H, W) -> (N, H, W, C), in memory as it should be; a copy only if it is not so already."""
    image = x.transpose(0, 2, 3, 1)
    if in_order(image, pixel_major=is_pixel_major(*image.shape[:3])).flags.c_contiguous:
        return image
    copy = empty_images(image.shape, image.dtype)
    copy[...] = image
    return copy


def as_nchw(x: Array) -> Array:
    """(N, H, W, C) -> (N, C, H, W), a view."""
    return x.transpose(0, 3, 1, 2)


def served(*arrays: Any) -> bool:
    """Whether these kernels compute with arrays of this kind: float32 or float64, all the same (None passes)."""
    kinds = {a.dtype for a in arrays if a is not None}
    return len(kinds) == 1 and kinds <= {np.dtype(np.float32), np.dtype(np.float64)}
