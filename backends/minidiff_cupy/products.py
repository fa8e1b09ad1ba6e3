"""Convolutions as matrix products on the device: which kernel, which tiles, how many parts.

As in `minidiff.ops.convolution` three products carry everything, each seen from another side: `correlate` makes results
from images and filters, `spread`, its transpose, images from results and filters, `filters_between` filters from images
and results. Images are (N, H, W, C) here, and contiguous.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from minidiff.modes import is_exact
from minidiff_cupy import engine
from minidiff_cupy.memory import VECTOR_BYTES, Array, address, type_of

_LEAST_STEPS = 8  # stages that are worth a block of their own
_BUSY_THREADS = 256  # that keep a multiprocessor busy
_PARTIAL_BYTES = 1 << 26  # for the sums of blocks that share a result
_FINISHING_THREADS = 256

_AXIS = np.dtype([(n, np.int32) for n in ("inputs", "outputs", "kernel", "stride", "padding", "dilation")])
_GEOMETRY = np.dtype(
    [("y", _AXIS), ("x", _AXIS), *((n, np.int32) for n in ("images", "channels", "filters", "groups"))]
)


@dataclass(frozen=True)
class Geometry:
    """Where taps fall, in pixels, rows before columns; `inputs` are the sides of the image, `outputs` of the result."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int = 1

    def struct(self, images: int, channels: int, filters: int) -> Any:
        """What kernels take; channels and filters are those of one group."""
        sides = (self.inputs, self.outputs, self.kernel, self.stride, self.padding, self.dilation)
        axes = tuple(zip(*sides, strict=True))
        return np.array((*axes, images, channels, filters, self.groups), dtype=_GEOMETRY)[()]


@dataclass(frozen=True)
class Tile:
    """The part of a product that a block computes.

    Attributes
    ----------
    rows, columns : int
    warp : (int, int)
        Rows and columns of each warp.
    stages : int
        Of the inner axis, in shared memory at the same time.
    speed : float
        Products per second beside those of the fastest tile, when all multiprocessors are busy. An estimate: a tile
        of half the side reads each number twice as often.
    line : int
        Bytes of the inner axis in a stage; 128 for the tiles that are multiplied by wgmma.
    """

    rows: int
    columns: int
    warp: tuple[int, int]
    stages: int
    speed: float
    line: int = 64

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.rows // self.warp[0] * (self.columns // self.warp[1]) * 32

    @property
    def shared_bytes(self) -> int:
        """Of a block's shared memory."""
        return self.stages * (self.rows + self.columns) * self.line

    def blocks(self, rows: int, columns: int) -> int:
        """How many tiles cover a product."""
        return -(-rows // self.rows) * -(-columns // self.columns)

    def steps(self, length: int, itemsize: int) -> int:
        """How many stages an inner axis has."""
        return -(-length * itemsize // self.line)


_LARGE = Tile(128, 128, (64, 64), 3, speed=1.0)
_SQUARE = Tile(128, 128, (64, 32), 3, speed=1.0)  # with registers left for the gradient of filters
_MEDIUM = Tile(64, 64, (32, 32), 3, speed=0.7)
_NARROW = Tile(128, 32, (32, 32), 3, speed=0.5)
_TILES = (_LARGE, _MEDIUM, _NARROW)
_HOPPER = (
    Tile(256, 128, (16, 128), 4, speed=2.0, line=128),
    Tile(128, 128, (16, 128), 4, speed=1.6, line=128),
    Tile(128, 64, (16, 64), 4, speed=1.2, line=128),
)
_HOPPER_FILTERS = (*_HOPPER, Tile(64, 128, (16, 128), 4, speed=1.2, line=128))  # rows are filters, often few


@lru_cache(maxsize=1024)
def _best(
    tiles: tuple[Tile, ...],
    rows: int,
    columns: int,
    length: int,
    itemsize: int,
    products: int,
    processors: int,
    cut: bool = False,
) -> Tile:
    """The tile with which `products` products of this size take the least time on so many multiprocessors.

    With `cut` the inner axis may be cut into parts, however long it is; see `_cut`.
    """

    def time(tile: Tile) -> float:
        if cut:
            return _cut(tile, rows, columns, length, itemsize, products, processors)[0]
        rounds = -(-products * tile.blocks(rows, columns) // processors)
        return rounds * tile.rows * tile.columns * tile.steps(length, itemsize) * tile.line / tile.speed

    return min(tiles, key=time)


def _cut(
    tile: Tile, rows: int, columns: int, length: int, itemsize: int, products: int, processors: int
) -> tuple[float, int]:
    """The time that products with a long inner axis take, and into how many parts, with blocks of their own, to cut it.

    To write what a block has summed up, and to sum up the parts, takes as long as `_LEAST_STEPS` stages.
    """
    blocks, steps = products * tile.blocks(rows, columns), tile.steps(length, itemsize)
    most = min(steps, _PARTIAL_BYTES // (4 * products * rows * columns))
    beside = max(1, _BUSY_THREADS // tile.threads)  # blocks on a multiprocessor

    def cut(parts: int) -> tuple[float, int]:
        share = -(-steps // max(1, min(parts, most)))  # none of them is empty
        parts = -(-steps // share)
        rounds = beside * -(-blocks * parts // (beside * processors))
        time = rounds * tile.rows * tile.columns * (share + _LEAST_STEPS) * tile.line / tile.speed
        return time, parts

    return min(cut(rounds * beside * processors // blocks) for rounds in range(5))


def _parts(blocks: int, steps: int, layer_bytes: int, processors: int) -> int:
    """Into how many parts the inner axis is cut, each for a block of its own, where there are too few blocks."""
    most = min(2 * processors // max(1, blocks), steps // _LEAST_STEPS, _PARTIAL_BYTES // max(1, layer_bytes))
    return max(1, most) if blocks < processors else 1


def _is_exact(xp: Any, x: Array) -> bool:
    """Whether products are exact float32: by choice, or as the tensor cores before 8.0 know no type but float16."""
    if x.dtype.name == "float32" and is_exact():
        return True
    return x.dtype.name != "float16" and engine.capability(xp) < 80


def _vector(itemsize: int, lengths: tuple[int, ...], arrays: tuple[Array, ...]) -> int:
    """How many elements are copied at once: 16 bytes of them, where lines begin at such places, or one."""
    width = VECTOR_BYTES // itemsize
    whole = all(n % width == 0 for n in lengths) and all(address(a) % VECTOR_BYTES == 0 for a in arrays)
    return width if whole else 1


@dataclass(frozen=True)
class Epilogue:
    """What a result is besides a product: silu(product + bias + shift + residual), each of them optional.

    Attributes
    ----------
    bias : array, shape (O,)
    shift : array, shape (N, O)
    residual : array, shape (N, H, W, O)
    silu : bool
    """

    bias: Array = None
    shift: Array = None
    residual: Array = None
    silu: bool = False

    @property
    def has_extras(self) -> bool:
        """Whether it is more than a bias."""
        return self.shift is not None or self.residual is not None or self.silu


_NOTHING_ELSE = Epilogue()


def contiguous(xp: Any, x: Array | None) -> Any:
    """The array without gaps, or None; for an epilogue."""
    return None if x is None else xp.ascontiguousarray(x)


def correlate(
    xp: Any, image: Array, filters: Array, g: Geometry, epilogue: Epilogue = _NOTHING_ELSE
) -> Array:
    """Images (N, *inputs, C), filters (O, KH, KW, C / groups) -> (N, *outputs, O)."""
    n, c, o = image.shape[0], image.shape[3] // g.groups, filters.shape[0] // g.groups
    y = xp.empty((n, *g.outputs, filters.shape[0]), dtype=image.dtype)
    size = _Size(n * math.prod(g.outputs), o, c, math.prod(g.kernel), g.groups)
    _multiply(xp, y, image, filters, epilogue, size, g.struct(n, c, o), transposed=False)
    return y


def spread(xp: Any, result: Array, filters: Array, g: Geometry, epilogue: Epilogue = _NOTHING_ELSE) -> Array:
    """Images (N, *outputs, O), filters (C, KH, KW, O / groups) -> (N, *inputs, C): the transpose of `correlate`."""
    n, o, c = result.shape[0], result.shape[3] // g.groups, filters.shape[0] // g.groups
    y = xp.empty((n, *g.inputs, filters.shape[0]), dtype=result.dtype)
    phases = math.prod(g.stride)
    rows = n * math.prod(-(-side // step) for side, step in zip(g.inputs, g.stride, strict=True))
    size = _Size(rows, c, o, -(-math.prod(g.kernel) // phases), g.groups * phases)
    _multiply(xp, y, result, filters, epilogue, size, g.struct(n, c, o), transposed=True)
    return y


@dataclass(frozen=True)
class _Size:
    """Of the products that make a convolution: `products` of them, over `taps` times `channels` each, at most."""

    rows: int
    columns: int
    channels: int
    taps: int
    products: int


def _multiply(
    xp: Any,
    y: Array,
    image: Array,
    filters: Array,
    epilogue: Epilogue,
    size: _Size,
    geometry: Any,
    *,
    transposed: bool,
) -> None:
    """Write `y`."""
    if not y.size:
        return
    itemsize, processors, exact = image.dtype.itemsize, engine.multiprocessors(xp), _is_exact(xp, image)
    vector = _vector(itemsize, (size.channels,), (image, filters))
    tiles: tuple[Tile, ...] = (_MEDIUM, _NARROW) if exact else _TILES
    if engine.capability(xp) == 90 and vector > 1 and not exact:
        tiles += _HOPPER
    tile = _best(tiles, size.rows, size.columns, size.channels, itemsize, size.products, processors)
    blocks = tile.blocks(size.rows, size.columns)
    steps = size.taps * tile.steps(size.channels, itemsize)
    parts = _parts(size.products * blocks, steps, 4 * y.size, processors)
    partial = xp.empty((parts, *y.shape), dtype=xp.float32) if parts > 1 else None
    extras = (epilogue.bias, epilogue.shift, epilogue.residual, np.int32(epilogue.silu))
    arguments = (y, partial, image, filters, *extras, geometry, np.int32(transposed))
    kernel = _correlation(xp, image, tile, exact, vector, epilogue.has_extras)
    kernel((blocks, parts, size.products), (tile.threads,), arguments, shared_mem=tile.shared_bytes)
    if partial is not None:
        _finish(xp, y, partial, epilogue)


def _correlation(xp: Any, x: Array, tile: Tile, exact: bool, vector: int, extras: bool) -> engine.Kernel:
    if tile in _HOPPER:
        options = _listed(tile.rows, tile.columns, tile.stages, vector, extras)
        return engine.load(xp, "conv_correlate_wgmma.cu", f"correlate<{type_of(x)}, {options}>")
    options = _listed(tile.rows, tile.columns, *tile.warp, tile.stages, exact, vector, extras)
    return engine.load(xp, "conv_correlate.cu", f"correlate<{type_of(x)}, {options}>")


def _listed(*options: bool | int) -> str:
    """As C++ writes them."""
    return ", ".join(str(option).lower() for option in options)


def _finish(xp: Any, y: Array, partial: Array, epilogue: Epilogue) -> None:
    """Sum the layers of `partial`, in their order, and apply what is left to do."""
    kernel = engine.load(xp, "conv_finish.cu", f"finish<{type_of(y)}>")
    blocks = min(-(-y.size // _FINISHING_THREADS), 32 * engine.multiprocessors(xp))
    extras = (epilogue.bias, epilogue.shift, epilogue.residual, np.int32(epilogue.silu))
    sizes = (np.int32(y.shape[-1]), np.int64(max(1, math.prod(y.shape[1:]))))
    kernel(
        (blocks,),
        (_FINISHING_THREADS,),
        (y, partial, np.int32(partial.shape[0]), np.int64(y.size), *extras, *sizes),
    )


def filters_between(xp: Any, image: Array, result: Array, g: Geometry) -> Array:
    """Images (N, *inputs, C) and (N, *outputs, O) -> the filters (O, KH, KW, C / groups) that join them."""
    n, c, o = image.shape[0], image.shape[3] // g.groups, result.shape[3] // g.groups
    shape = (result.shape[3], *g.kernel, c)
    size, pixels, columns = math.prod(shape), n * math.prod(g.outputs), math.prod(g.kernel) * c
    if not size or not pixels:
        return xp.zeros(shape, dtype=image.dtype)
    itemsize, processors, exact = image.dtype.itemsize, engine.multiprocessors(xp), _is_exact(xp, image)
    vector = _vector(itemsize, (c, o), (image, result))
    tiles: tuple[Tile, ...] = (_MEDIUM,) if exact else (_SQUARE, _MEDIUM)
    if engine.capability(xp) == 90 and vector > 1 and itemsize == 2:
        tiles += _HOPPER_FILTERS
    sizes = (o, columns, pixels, itemsize, g.groups, processors)
    tile = _best(tiles, *sizes, True)
    blocks, (_, parts) = tile.blocks(o, columns), _cut(tile, *sizes)
    partial = xp.empty((parts, *shape), dtype=xp.float32)
    kernel = _filters(xp, image, tile, exact, vector)
    arguments = (partial, image, result, g.struct(n, c, o))
    kernel((blocks, parts, g.groups), (tile.threads,), arguments, shared_mem=tile.shared_bytes)
    if parts == 1 and image.dtype == partial.dtype:
        return partial.reshape(shape)
    filters = xp.empty(shape, dtype=image.dtype)
    _finish(xp, filters, partial, _NOTHING_ELSE)
    return filters


def _filters(xp: Any, x: Array, tile: Tile, exact: bool, vector: int) -> engine.Kernel:
    if tile in _HOPPER_FILTERS:
        options = _listed(tile.rows, tile.columns, tile.stages)
        return engine.load(xp, "conv_filters_wgmma.cu", f"filters_between<{type_of(x)}, {options}>")
    options = _listed(tile.rows, tile.columns, *tile.warp, tile.stages, exact, vector)
    return engine.load(xp, "conv_filters.cu", f"filters_between<{type_of(x)}, {options}>")
