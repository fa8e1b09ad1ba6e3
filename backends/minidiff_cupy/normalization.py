"""group_norm, layer_norm and rms_norm.

Only the input and its statistics are remembered; the gradient normalizes the input again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.memory import LARGEST, Array, channels_first, channels_last, served, type_of, vector_width
from minidiff_cupy.sums import sum_columns

_FILE, _GRADIENT = "normalization.cu", "normalization_gradient.cu"
_HIGHEST = 65535  # blocks in y
_SPLIT_THREADS = 256
_IN_FLIGHT = 4  # as in normalization.cuh
_RESIDENT = 1024  # threads that a multiprocessor is sure to run at once

# Rows held by a thread, and threads in a block, in the order of preference.
_HELD = ((1, 256), (2, 256), (4, 256), (1, 512), (2, 512), (4, 512), (8, 512), (16, 512), (1, 1024))
_HELD_TWICE = tuple((k, threads) for k, threads in _HELD if k < 16)  # the input and the incoming gradient


@dataclass(frozen=True)
class _Plan:
    """How the rows of a group are shared out.

    Attributes
    ----------
    held : int
        Rows that a thread keeps in registers; 0 where the group does not fit, and is split.
    threads : int
        Of a block.
    splits, split_rows : int
        Parts of a group, and how many rows each has.
    """

    held: int
    threads: int
    splits: int
    split_rows: int


@lru_cache(maxsize=256)
def _plan(
    rows: int, across: int, blocks: int, multiprocessors: int, shapes: tuple[tuple[int, int], ...]
) -> _Plan:
    """For groups of `rows` rows of `across` vectors, `blocks` of them."""
    for held, most in shapes:
        threads = -(-rows // held) * across
        if threads <= most:
            return _Plan(held, _warps(threads), 1, rows)
    depth = max(1, _SPLIT_THREADS // across)
    wanted = -(-8 * multiprocessors // blocks)
    split_rows = max(-(-rows // wanted), min(rows, depth * _IN_FLIGHT))
    return _Plan(0, _warps(depth * across), -(-rows // split_rows), split_rows)


def _warps(threads: int) -> int:
    return -(-threads // 32) * 32


def group_norm(
    xp: Any, x: Any, weight: Any, bias: Any, *, groups: int, eps: float, activation: str | None
) -> Any:
    """See `minidiff.ops.group_norm`; the result is channels-last in memory."""
    n, c, *image = x.shape
    shape = (n, math.prod(image), c)
    if not _possible(shape, groups, x, weight, bias):
        return NotImplemented
    silu = activation == "silu"
    y, pull = _normalize(xp, channels_last(xp, x), shape, weight, bias, groups, eps, centre=True, silu=silu)

    def vjp(dy: Array) -> tuple[Any, Any, Any]:
        dx, dweight, dbias = pull(channels_last(xp, dy))
        return channels_first(dx), dweight, dbias

    return channels_first(y), vjp


def layer_norm(xp: Any, x: Any, weight: Any, bias: Any, *, axis: int | tuple[int, ...], eps: float) -> Any:
    """See `minidiff.ops.layer_norm`; a position has up to 1024 vectors of 16 bytes."""
    return _over_last_axes(xp, x, weight, bias, axis, eps, centre=True)


def rms_norm(xp: Any, x: Any, weight: Any, *, axis: int | tuple[int, ...], eps: float) -> Any:
    """See `minidiff.ops.rms_norm`; a position has up to 1024 vectors of 16 bytes."""
    return _over_last_axes(xp, x, weight, None, axis, eps, centre=False)


def _over_last_axes(
    xp: Any, x: Array, weight: Any, bias: Any, axis: int | tuple[int, ...], eps: float, *, centre: bool
) -> Any:
    axes = 1 if isinstance(axis, int) else len(axis)
    width = math.prod(x.shape[x.ndim - axes :])
    shape = (x.size // max(1, width), 1, width)
    if not _possible(shape, 1, x, weight, bias):
        return NotImplemented
    before = xp.ascontiguousarray(x)
    y, pull = _normalize(xp, before, shape, weight, bias, 1, eps, centre=centre, silu=False)
    return y, lambda dy: pull(xp.ascontiguousarray(dy))


def _possible(shape: tuple[int, int, int], groups: int, *arrays: Any) -> bool:
    _, rows, channels = shape
    if not served(*arrays) or 0 in shape or max(shape) >= LARGEST:
        return False
    across = channels // groups // vector_width(channels // groups, arrays[0])
    return across <= (1024 if rows == 1 else 512)  # threads of a block


def _normalize(
    xp: Any,
    x: Array,
    shape: tuple[int, int, int],
    weight: Any,
    bias: Any,
    groups: int,
    eps: float,
    *,
    centre: bool,
    silu: bool,
) -> tuple[Array, Callable[[Array], tuple[Array, Any, Any]]]:
    """Normalize contiguous memory seen as (images, rows, channels): the result, and its pullback."""
    images, rows, channels = shape
    width = channels // groups
    kind, flags = type_of(x), f"{_cpp(centre)}, {_cpp(silu)}"
    sizes = tuple(map(np.int32, (images, rows, channels, groups)))
    affine = (*(a if a is None else xp.ascontiguousarray(a) for a in (weight, bias)), *sizes)
    y = xp.empty(x.shape, dtype=x.dtype)
    mean, rstd = xp.empty((2, images, groups), dtype=np.float32)
    v = vector_width(width, x, y)
    many = engine.multiprocessors(xp)
    plan = _plan(rows, width // v, images * groups, many, _HELD)
    grid = (groups * plan.splits, min(images, _HIGHEST))
    if plan.held:
        kernel = engine.load(xp, _FILE, f"normalize_held<{kind}, {v}, {plan.held}, {flags}>")
        kernel(grid, (plan.threads,), (y, mean, rstd, x, *affine, np.float32(eps)))
    else:
        split_rows = np.int32(plan.split_rows)
        partial = xp.empty((images, groups, plan.splits, 3), dtype=np.float32)
        kernel = engine.load(xp, _FILE, f"moments_of_splits<{kind}, {v}, {_cpp(centre)}>")
        kernel(grid, (plan.threads,), (partial, x, *sizes, split_rows))
        kernel = engine.load(xp, _FILE, f"normalize_splits<{kind}, {v}, {flags}>")
        kernel(grid, (plan.threads,), (y, mean, rstd, partial, x, *affine, split_rows, np.float32(eps)))

    def pull(dy: Array) -> tuple[Array, Any, Any]:
        dx = xp.empty(x.shape, dtype=x.dtype)
        v = vector_width(width, x, dy, dx)
        plan = _plan(rows, width // v, images * groups, many, _HELD_TWICE)
        blocks = groups * plan.splits
        turns = -(-images // max(1, many * max(1, _RESIDENT // plan.threads) // blocks))
        grid = (blocks, -(-images // turns))
        shared = 4 * v * plan.threads
        partial = xp.empty((1, grid[1] * plan.splits, 2 * channels), dtype=np.float32)
        arguments = (dy, x, mean, rstd, *affine)
        if plan.held:
            kernel = engine.load(xp, _GRADIENT, f"pull_held<{kind}, {v}, {plan.held}, {flags}>")
            kernel(grid, (plan.threads,), (dx, partial, *arguments), shared_mem=shared)
        else:
            split_rows = np.int32(plan.split_rows)
            pulls = xp.empty((images, groups, plan.splits, 2), dtype=np.float32)
            kernel = engine.load(xp, _GRADIENT, f"sums_of_splits<{kind}, {v}, {flags}>")
            kernel(grid, (plan.threads,), (pulls, partial, *arguments, split_rows), shared_mem=shared)
            kernel = engine.load(xp, _GRADIENT, f"pull_splits<{kind}, {v}, {flags}>")
            grid = (blocks, min(images, _HIGHEST))
            kernel(grid, (plan.threads,), (dx, pulls, *arguments, split_rows))
        if weight is None and bias is None:
            return dx, None, None
        dweight, dbias = sum_columns(xp, partial, x.dtype).reshape(2, channels)
        return (
            dx,
            None if weight is None else dweight.reshape(weight.shape),
            None if bias is None else dbias.reshape(bias.shape),
        )

    return y, pull


def _cpp(flag: bool) -> str:
    return "true" if flag else "false"
