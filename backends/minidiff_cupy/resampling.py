"""upsample2d, avg_pool2d and max_pool2d on channels-last images."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.memory import LARGEST, Array, channels_first, channels_last, served, type_of, vector_width

_THREADS = 256
_BLOCKS = 32  # for each multiprocessor; with more work, threads take turns

_SIZES = np.dtype([(name, "i4") for name in ("n", "to_h", "to_w", "from_h", "from_w", "c")])
_WINDOW = np.dtype([(name, "i4") for name in ("h", "w", "stride_h", "stride_w")])

Pair = tuple[int, int]


def upsample2d(xp: Any, x: Any, scale: int, *, mode: str) -> Any:
    """See `minidiff.ops.upsample2d`; the result is channels-last in memory."""
    if not _possible(x, scale * scale):
        return NotImplemented
    h, w = x.shape[2:]
    forward, back = ("Covering", "Windows") if mode == "nearest" else ("Lines", "LinesBack")
    small, large, steps = (h, w), (h * scale, w * scale), (scale, scale, scale, scale)
    y = _resample(xp, forward, channels_last(xp, x), large, steps)
    return channels_first(y), lambda dy: (
        channels_first(_resample(xp, back, channels_last(xp, dy), small, steps)),
    )


def avg_pool2d(xp: Any, x: Any, kernel: int | Pair, *, stride: int | Pair | None) -> Any:
    """See `minidiff.ops.avg_pool2d`; the result is channels-last in memory."""
    if not _possible(x):
        return NotImplemented
    before, after, steps = _windows(x, kernel, stride)
    share = 1 / (steps[0] * steps[1])
    y = _resample(xp, "Windows", channels_last(xp, x), after, steps, share)
    return channels_first(y), lambda dy: (
        channels_first(_resample(xp, "Covering", channels_last(xp, dy), before, steps, share)),
    )


def max_pool2d(xp: Any, x: Any, kernel: int | Pair, *, stride: int | Pair | None) -> Any:
    """See `minidiff.ops.max_pool2d`; the result is channels-last in memory."""
    if not _possible(x):
        return NotImplemented
    before, after, steps = _windows(x, kernel, stride)
    n, c = x.shape[:2]
    images = channels_last(xp, x)
    sizes, window = _packed(_SIZES, n, *after, *before, c), _packed(_WINDOW, *steps)
    y = xp.empty((n, *after, c), dtype=x.dtype)
    _launch(xp, "pool_max", y, images, sizes=sizes, rest=(window,))

    def vjp(dy: Array) -> tuple[Array]:
        dx = xp.empty((n, *before, c), dtype=x.dtype)
        _launch(xp, "pull_max", dx, channels_last(xp, dy), y, images, sizes=sizes, rest=(window,))
        return (channels_first(dx),)

    return channels_first(y), vjp


def _possible(x: Any, enlarged: int = 1) -> bool:
    return served(x) and x.size * enlarged <= LARGEST


def _windows(x: Array, kernel: int | Pair, stride: int | Pair | None) -> tuple[Pair, Pair, tuple[int, ...]]:
    """Sides of the image and of its pooled image, and the kernel and stride along both axes."""
    k = _pair(kernel)
    s = k if stride is None else _pair(stride)
    h, w = x.shape[2:]
    return (h, w), ((h - k[0]) // s[0] + 1, (w - k[1]) // s[1] + 1), (*k, *s)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _resample(xp: Any, kind: str, x: Array, sides: Pair, steps: tuple[int, ...], share: float = 1.0) -> Array:
    """(N, H, W, C) -> (N, *sides, C)."""
    n, h, w, c = x.shape
    y = xp.empty((n, *sides, c), dtype=x.dtype)
    sizes = _packed(_SIZES, n, *sides, h, w, c)
    _launch(
        xp, "resample", y, x, of=f"{kind}, ", sizes=sizes, rest=(_packed(_WINDOW, *steps), np.float32(share))
    )
    return y


def _launch(
    xp: Any, name: str, y: Array, *arrays: Array, sizes: Any, rest: tuple[Any, ...], of: str = ""
) -> None:
    if y.size:
        v = vector_width(y.shape[-1], y, *arrays)
        kernel = engine.load(xp, "resampling.cu", f"{name}<{of}{type_of(y)}, {v}>")
        blocks = min(-(-y.size // (v * _THREADS)), _BLOCKS * engine.multiprocessors(xp))
        kernel((blocks,), (_THREADS,), (y, *arrays, sizes, *rest))


def _packed(dtype: Any, *values: int) -> Any:
    return np.array(values, dtype=dtype)[()]
