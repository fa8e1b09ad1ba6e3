"""Halving and doubling of images with the filter (1, 3, 3, 1), which passes less of what aliases than averages do.

The axes are filtered one after the other. Both functions work on channels-last views, so that an image which is
channels-last in memory stays so.

References
----------
.. [1] Zhang, "Making convolutional networks shift-invariant again", 2019, arXiv:1904.11486.
.. [2] Karras et al., "Analyzing and improving the image quality of StyleGAN", 2020, arXiv:1912.04958, appendix B.
"""

from __future__ import annotations

from typing import Any

from minidiff import ops

__all__ = ["fir_downsample2d", "fir_upsample2d"]

_ROWS, _COLUMNS = 1, 2  # of (N, H, W, C)


def fir_downsample2d(x: Any) -> Any:
    """Halve images of even sides: (N, C, H, W) -> (N, C, H / 2, W / 2).

    Along each axis y[i] = (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8; pixels outside count as 0.
    """
    y = ops.permute_dims(x, (0, 2, 3, 1))
    for axis in (_ROWS, _COLUMNS):
        size, padded = y.shape[axis], _padded(y, axis)
        first, second, third, fourth = (
            _along(padded, axis, slice(start, start + size - 1, 2)) for start in range(4)
        )
        y = ops.multiply(ops.add(ops.add(first, fourth), ops.multiply(ops.add(second, third), 3.0)), 1 / 8)
    return ops.permute_dims(y, (0, 3, 1, 2))


def fir_upsample2d(x: Any) -> Any:
    """Double images: (N, C, H, W) -> (N, C, 2 H, 2 W).

    Along each axis y[2i] = (x[i - 1] + 3 x[i]) / 4 and y[2i + 1] = (3 x[i] + x[i + 1]) / 4; pixels outside count as 0.
    """
    y = ops.permute_dims(x, (0, 2, 3, 1))
    for axis in (_ROWS, _COLUMNS):
        shape = list(y.shape)
        outer, inner = ops.multiply(_padded(y, axis), 0.25), ops.multiply(y, 0.75)
        pair = [ops.add(_along(outer, axis, slice(start, start + shape[axis])), inner) for start in (0, 2)]
        shape[axis] *= 2
        y = ops.reshape(ops.stack(pair, axis=axis + 1), tuple(shape))
    return ops.permute_dims(y, (0, 3, 1, 2))


def _padded(x: Any, axis: int) -> Any:
    return ops.pad(x, [(1, 1) if axis == i else (0, 0) for i in range(4)])


def _along(x: Any, axis: int, part: slice) -> Any:
    return x[tuple(part if axis == i else slice(None) for i in range(4))]
