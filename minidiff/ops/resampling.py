"""Pooling and enlarging of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.convolution import Geometry, Size
from minidiff.ops.support import cast, check_floating, check_images, constant, pair, widen, zeros


def _pooling(name: str, x: Array, kernel: Size, stride: Size | None) -> Geometry:
    check_floating(name, x=x)
    check_images(name, x)
    k = pair(kernel)
    s = k if stride is None else pair(stride)
    h, w = x.shape[2:]
    if h < k[0] or w < k[1]:
        raise ValueError(f"{name}: a window of {k} pixels does not fit into x of shape {tuple(x.shape)}")
    return Geometry((h, w), ((h - k[0]) // s[0] + 1, (w - k[1]) // s[1] + 1), k, s, (0, 0), (1, 1), 1)


@op
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
    g = _pooling("max_pool2d", x, kernel, stride)
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


@op
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
    g = _pooling("avg_pool2d", x, kernel, stride)
    wide = widen(xp, x)
    share = 1 / (g.kernel[0] * g.kernel[1])
    y = zeros(xp, (*x.shape[:2], *g.outputs), wide)
    for _, _, window in g.taps():
        y += wide[window]

    def vjp(dy: Array) -> tuple[Array]:
        dx = zeros(xp, x.shape, wide)
        part = widen(xp, dy) * share
        for _, _, window in g.taps():
            dx[window] += part
        return (cast(xp, dx, x),)

    return cast(xp, y * share, x), vjp


@op
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
    check_floating("upsample2d", x=x)
    check_images("upsample2d", x)
    if scale < 1:
        raise ValueError(f"upsample2d: scale must be at least 1, got {scale}")
    n, c, h, w = x.shape
    if mode == "nearest":
        apart = (n, c, h, scale, w, scale)
        y = xp.broadcast_to(x[:, :, :, None, :, None], apart)
        return xp.reshape(y, (n, c, h * scale, w * scale)), lambda dy: (
            xp.sum(xp.reshape(dy, apart), axis=(3, 5), dtype=dy.dtype),
        )
    if mode != "bilinear":
        raise ValueError(f"upsample2d: mode must be 'nearest' or 'bilinear', got {mode!r}")
    rows, columns = (constant(xp, _bilinear_matrix(size, scale), x) for size in (h, w))
    y = xp.matmul(xp.matmul(rows, x), columns.T)
    return y, lambda dy: (xp.matmul(xp.matmul(rows.T, dy), columns),)


def _bilinear_matrix(size: int, scale: int) -> np.ndarray[Any, Any]:
    """Weights (size * scale, size) of linear interpolation at pixel centres."""
    centres = np.clip((np.arange(size * scale) + 0.5) / scale - 0.5, 0, size - 1)
    return np.maximum(0.0, 1 - np.abs(centres[:, None] - np.arange(size)))
