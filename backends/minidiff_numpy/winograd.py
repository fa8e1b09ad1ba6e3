"""3x3 convolution at stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3) [1]_.

The result is cut into tiles of 4x4 pixels. A tile depends on 6x6 pixels; both, and the filters,
are transformed so that the tile's convolution becomes 36 products, one for each of 6x6 places.
What is left to do at a place, over all tiles and channels, is one matrix product: (tiles, C) @ (C, O).

Each transform is a matrix product too. Along one axis of the image, the transforms of all its
tiles are one banded matrix, which holds the border of zeros and cuts what sticks out at the end,
so any size and any padding up to 2 will do. A band is a row of tiles, four rows of pixels.

Transforms come from polynomials at six points, one of them infinity. The usual 0, ±1, ±2 lose five times as
many digits as 0, ±2/3, ±3/2: the largest error of normally distributed results falls from 3.5e-5 to 7e-6
(64 channels). What they lack, small whole coefficients, does not matter to a matrix product.

References
----------
.. [1] Lavin, Gray, "Fast algorithms for convolutional neural networks", 2015, arXiv:1509.09308.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.polynomial import polynomial

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array, empty_images, is_pixel_major
from minidiff_numpy.linear import matrix_product
from minidiff_numpy.memory import empty

_POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and infinity
_TILES = 64  # in a group: as many rows as keep a matrix product busy
_TILES_OF_FEW_PIXELS = 256  # whose transforms are a call for each pixel, whatever their number
_SHARED = 8 << 20  # bytes of the panels that lanes share for the gradient of filters


def _transforms() -> tuple[Array, Array, Array]:
    """Of inputs (6, 6), of filters (6, 3), and of products to results (4, 6), by Toom and Cook.

    Rows are scaled so that values at all points are about as large.
    """
    inputs, filters, results = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for j, p in enumerate(_POINTS):
        others = [q for q in _POINTS if q != p]
        inputs[j, :5] = polynomial.polyfromroots(others)
        filters[j] = [p**k / math.prod(p - q for q in others) for k in range(3)]
        results[:, j] = [p**k for k in range(4)]
    inputs[5], filters[5, 2], results[3, 5] = polynomial.polyfromroots(_POINTS), 1, 1
    a, b = np.linalg.norm(inputs, axis=1), np.linalg.norm(results, axis=0)
    return inputs / a[:, None], filters * (a * b)[:, None], results / b


_INPUTS, _FILTERS, _RESULTS = _transforms()
_BOTH_AXES = np.kron(_FILTERS, _FILTERS).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Stretch:
    """The tiles that cover some results along one axis.

    Attributes
    ----------
    tiles : int
    inputs, outputs : slice
        Pixels that are read and written.
    into : array, shape (6 * tiles, len(inputs))
        From pixels to places, each place with all tiles.
    out_of : array, shape (len(outputs), 6 * tiles)
    """

    tiles: int
    inputs: slice
    outputs: slice
    into: Array
    out_of: Array


@lru_cache(maxsize=1024)
def _stretch(size: int, padding: int, first: int, last: int) -> _Stretch:
    """For results `first` to `last` - 1 of an axis of `size` pixels."""
    inputs = slice(max(0, first - padding), min(size, last - padding + 2))
    tiles = -(-(last - first) // 4)
    into = np.zeros((6, tiles, inputs.stop - inputs.start))
    out_of = np.zeros((4 * tiles, 6, tiles))
    for t in range(tiles):
        for i in range(6):
            pixel = first + 4 * t - padding + i
            if inputs.start <= pixel < inputs.stop:
                into[:, t, pixel - inputs.start] = _INPUTS[:, i]
        out_of[4 * t : 4 * t + 4, :, t] = _RESULTS
    return _Stretch(
        tiles,
        inputs,
        slice(first, last),
        into.reshape(6 * tiles, -1).astype(np.float32),
        out_of.reshape(4 * tiles, -1)[: last - first].astype(np.float32),
    )


Group: TypeAlias = tuple[slice, list[_Stretch]]  # some images, and some bands of each


class _Tiling:
    """The tiles of a batch: its rows in bands, its columns all at once."""

    def __init__(self, shape: tuple[int, ...], padding: tuple[int, int]) -> None:
        self.images, h, w, _ = shape
        self.sides = h + 2 * padding[0] - 2, w + 2 * padding[1] - 2
        height, width = self.sides
        self.pixel_major = is_pixel_major(self.images, h, w), is_pixel_major(self.images, height, width)
        self.bands = [_stretch(h, padding[0], r, min(r + 4, height)) for r in range(0, height, 4)]
        self.columns = _stretch(w, padding[1], 0, width)

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return self.images * len(self.bands) * self.columns.tiles

    def groups(self, tiles: int, *, shares: int = 1) -> Iterator[Group]:
        """Images and bands with at most so many tiles, or one band of one image; one group at least for each share."""
        bands, across = len(self.bands), self.columns.tiles
        tiles = min(tiles, -(-self.count // shares))
        images = max(1, min(self.images, tiles // across))
        deep = max(1, min(bands, tiles // (across * images)))
        for n in range(0, self.images, images):
            for b in range(0, bands, deep):
                yield slice(n, min(n + images, self.images)), self.bands[b : b + deep]

    def panel(self, buffer: int, group: Group, channels: int) -> Array:
        """Room for a group: (6, 6 * tiles across, bands, images, channels)."""
        images, bands = group
        shape = (6, 6 * self.columns.tiles, len(bands), images.stop - images.start, channels)
        return lanes.scratch(buffer, shape)


def _to_tiles(image: Array, rows: Array, columns: Array, tiles: Array, *, pixel_major: bool) -> None:
    """Images (N, H, W, C) to their tiles (6, 6 * tiles across, N, C)."""
    n, h, w, c = image.shape
    if pixel_major:
        half = lanes.scratch(2, (6, w, n * c))
        np.matmul(rows, image.transpose(2, 1, 0, 3).reshape(w, h, n * c), out=half.swapaxes(0, 1))
        np.matmul(columns, half, out=tiles.reshape(*tiles.shape[:2], n * c))
    else:
        half = lanes.scratch(2, (n, 6, w, c))
        np.matmul(rows, image.reshape(n, h, w * c), out=half.reshape(n, 6, w * c))
        np.matmul(columns, half, out=tiles.transpose(2, 0, 1, 3))


def _from_tiles(tiles: Array, rows: Array, columns: Array, image: Array, *, pixel_major: bool) -> None:
    """Tiles (6, 6 * tiles across, N, C) to images (N, H, W, C)."""
    n, h, w, c = image.shape
    if pixel_major:
        half = lanes.scratch(2, (6, w, n * c))
        np.matmul(columns, tiles.reshape(*tiles.shape[:2], n * c), out=half)
        np.matmul(rows, half.swapaxes(0, 1), out=image.transpose(2, 1, 0, 3).reshape(w, h, n * c))
    else:
        half = lanes.scratch(2, (n, 6, w, c))
        np.matmul(columns, tiles.transpose(2, 0, 1, 3), out=half)
        np.matmul(rows, half.reshape(n, 6, w * c), out=image.reshape(n, h, w * c))


def transform(filters: Array) -> Array:
    """Filters (3, 3, C, O) -> (36, C, O): what `correlate` takes."""
    c, o = filters.shape[2:]
    return matrix_product(_BOTH_AXES, filters.reshape(9, c * o)).reshape(36, c, o)


def correlate(
    x: Array,
    filters: Array,
    padding: tuple[int, int],
    offset: Array | None = None,
    residual: Array | None = None,
) -> Array:
    """Images (N, H, W, C), transformed filters (36, C, O) -> images (N, *sides, O), plus (N, O) and (N, *sides, O)."""
    tiling, c, o = _Tiling(x.shape, padding), x.shape[3], filters.shape[2]
    y, columns = empty_images((x.shape[0], *tiling.sides, o), x.dtype), tiling.columns
    of_x, of_y = tiling.pixel_major

    def part(group: Group) -> None:
        images, bands = group
        tiles, products = tiling.panel(0, group, c), tiling.panel(1, group, o)
        for k, band in enumerate(bands):
            _to_tiles(x[images, band.inputs], band.into, columns.into, tiles[:, :, k], pixel_major=of_x)
        np.matmul(tiles.reshape(36, -1, c), filters, out=products.reshape(36, -1, o))
        for k, band in enumerate(bands):
            part_of_y = y[images, band.outputs]
            _from_tiles(products[:, :, k], band.out_of, columns.out_of, part_of_y, pixel_major=of_y)
            if offset is not None:
                part_of_y += offset[images, None, None]
            if residual is not None:
                part_of_y += residual[images, band.outputs]

    work = _multiplications(tiling, c, o)
    most = _TILES_OF_FEW_PIXELS if of_x and of_y else _TILES
    lanes.each(part, tiling.groups(most, shares=lanes.sharing(work)), multiplications=work)
    return y


def filters_between(x: Array, y: Array, padding: tuple[int, int]) -> Array:
    """Images (N, H, W, C) and (N, *sides, O) -> the filters (3, 3, C, O) that join them."""
    tiling, c, o = _Tiling(x.shape, padding), x.shape[3], y.shape[3]
    columns, work = tiling.columns, _multiplications(tiling, c, o)
    of_x, of_y = tiling.pixel_major
    total = empty((36, c, o), x.dtype)

    def add_up(group: Group, first: bool) -> None:
        images, bands = group
        a, b = tiling.panel(0, group, c), tiling.panel(1, group, o)

        def fill(piece: tuple[int, int, int]) -> None:
            k, start, stop = piece
            some, band = slice(images.start + start, images.start + stop), bands[k]
            into, out_of = a[:, :, k, start:stop], b[:, :, k, start:stop]
            _to_tiles(x[some, band.inputs], band.into, columns.into, into, pixel_major=of_x)
            _to_tiles(y[some, band.outputs], band.out_of.T, columns.out_of.T, out_of, pixel_major=of_y)

        alone = lanes.sharing(work) == 1
        places = 36 if alone and first else 3  # at a time

        def multiply(place: int) -> None:
            at = slice(place, place + places)
            sums = total[at] if first else lanes.scratch(2, (3, c, o))
            np.matmul(a.reshape(36, -1, c)[at].swapaxes(1, 2), b.reshape(36, -1, o)[at], out=sums)
            if not first:
                total[at] += sums

        n = images.stop - images.start
        step = n if alone else max(1, n // 4)
        pieces = [(k, i, min(i + step, n)) for k in range(len(bands)) for i in range(0, n, step)]
        lanes.each(fill, pieces, multiplications=work)
        lanes.each(multiply, range(0, 36, places), multiplications=work)

    for number, group in enumerate(tiling.groups(max(_TILES, _SHARED // (144 * (c + o))))):
        add_up(group, first=not number)
    return matrix_product(_BOTH_AXES.T, total.reshape(36, c * o)).reshape(3, 3, c, o)


def _multiplications(tiling: _Tiling, channels: int, filters: int) -> int:
    return tiling.count * 36 * (channels * filters + 12 * (channels + filters))
