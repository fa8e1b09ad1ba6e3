"""Pooling and enlarging of images."""

from __future__ import annotations

from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.convolution import Geometry, Size
from minidiff.ops.support import (
    check_at_least,
    check_floating,
    check_images,
    constant,
    narrow,
    pair,
    widen,
    zeros,
)


def pooling_geometry(name: str, x: Array, kernel: Size, stride: Size | None) -> Geometry:
    """Check the arguments of a pooling and lay out its windows."""
    check_floating(name, x=x)
    check_images(name, x)
    k = pair(kernel)
    s = k if stride is None else pair(stride)
    check_at_least(name, 1, kernel=k, stride=s)
    h, w = x.shape[2:]
    if h < k[0] or w < k[1]:
        raise ValueError(f"{name}: a window of {k} pixels does not fit into x of shape {tuple(x.shape)}")
    return Geometry((h, w), ((h - k[0]) // s[0] + 1, (w - k[1]) // s[1] + 1), k, s, (0, 0), (1, 1), 1)


@op(check=partial(pooling_geometry, "max_pool2d"))
def max_pool2d(xp: Any, x: Any, kernel: Size, *, stride: Size | None = None) -> Any:
    """The greatest pixel of each window; the first of equal ones gets the gradient.

    Parameters
    ----------
    x : array, shape (N, C, H, W)
    kernel, stride : int or (int, int)
        In pixels; the stride is the kernel by default.

    Returns
    -------
    array, shape (N, C, (H - KH) // stride + 1, (W - KW) // stride + 1)
    """
    g = pooling_geometry("max_pool2d", x, kernel, stride)
    windows = [window for _, _, window in g.taps()]
    y = x[windows[0]]
    for window in windows[1:]:
        y = xp.maximum(y, x[window])

    def vjp(dy: Array) -> tuple[Array]:
        dx = zeros(xp, x.shape, dy)
        left = dy  # what no window has claimed yet
        for window in windows:
            here = x[window] == y
            dx[window] += xp.where(here, left, xp.zeros_like(left))
            left = xp.where(here, xp.zeros_like(left), left)
        return (dx,)

    return y, vjp


@op(check=partial(pooling_geometry, "avg_pool2d"))
def avg_pool2d(xp: Any, x: Any, kernel: Size, *, stride: Size | None = None) -> Any:
    """The mean of each window.

    Parameters
    ----------
    x : array, shape (N, C, H, W)
    kernel, stride : int or (int, int)
        In pixels; the stride is the kernel by default.

    Returns
    -------
    array, shape (N, C, (H - KH) // stride + 1, (W - KW) // stride + 1)
    """
    g = pooling_geometry("avg_pool2d", x, kernel, stride)
    shape, wide = tuple(x.shape), widen(xp, x)
    share = 1 / (g.kernel[0] * g.kernel[1])
    y = reduce(add, (wide[window] for _, _, window in g.taps()))

    def vjp(dy: Array) -> tuple[Array]:
        part = widen(xp, dy) * share
        dx = zeros(xp, shape, part)
        for _, _, window in g.taps():
            dx[window] += part
        return (dx,)

    return narrow(xp, y * share, x), vjp


def check_upsample2d(x: Array, scale: int, *, mode: str) -> None:
    """The errors of `upsample2d`."""
    check_floating("upsample2d", x=x)
    check_images("upsample2d", x)
    check_at_least("upsample2d", 1, scale=scale)
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f"upsample2d: mode must be 'nearest' or 'bilinear', got {mode!r}")


@op(check=check_upsample2d)
def upsample2d(xp: Any, x: Any, scale: int, *, mode: str = "nearest") -> Any:
    """Enlarge images by a whole factor.

    Parameters
    ----------
    x : array, shape (N, C, H, W)
    scale : int
    mode : "nearest" or "bilinear"
        Bilinear samples at pixel centres (`align_corners=False` elsewhere) and repeats the border.

    Returns
    -------
    array, shape (N, C, H * scale, W * scale)

    Raises
    ------
    ValueError
        If `scale` is below 1 or `mode` is unknown.
    """
    n, c, h, w = x.shape
    if mode == "nearest":
        apart = (n, c, h, scale, w, scale)
        y = xp.reshape(xp.broadcast_to(x[:, :, :, None, :, None], apart), (n, c, h * scale, w * scale))
        return y, lambda dy: (xp.sum(xp.reshape(widen(xp, dy), apart), axis=(3, 5)),)
    wide = widen(xp, x)
    rows, columns = (constant(xp, _bilinear_matrix(size, scale), wide) for size in (h, w))
    y = xp.matmul(xp.matmul(rows, wide), columns.T)
    return narrow(xp, y, x), lambda dy: (xp.matmul(xp.matmul(rows.T, widen(xp, dy)), columns),)


def _bilinear_matrix(size: int, scale: int) -> np.ndarray[Any, Any]:
    """Weights (size * scale, size) of linear interpolation at pixel centres."""
    centres = np.clip((np.arange(size * scale) + 0.5) / scale - 0.5, 0, size - 1)
    return np.asarray(np.maximum(0.0, 1 - np.abs(centres[:, None] - np.arange(size))))
