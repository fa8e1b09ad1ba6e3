"""Pictures from arrays, to look at what a model does.

Images are (N, C, H, W) floats in [-1, 1] of any array library, as models make them. A picture is one
(H, W, C) uint8 NumPy array, as files and screens want it: a grid of images, enlarged so that a person can see
8x8 pixels, with names beside the rows or above the columns. NaN is an error here, not a black square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array, backend_of
from minidiff.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["grid", "save_gif", "save_png", "strip", "to_uint8"]

Picture: TypeAlias = NDArray[np.uint8]  # (H, W, C)

WHITE = 255
EASY_TO_SEE = 64  # pixels: how large an image is shown at least, unless the caller says otherwise
MARGIN = 4  # pixels around a caption


def to_uint8(images: Array) -> NDArray[np.uint8]:
    """Levels 0..255 from floats in [-1, 1].

    Parameters
    ----------
    images : (N, C, H, W), (C, H, W) or (H, W) array of floats
        Of any array library; C is 1 or 3. Values beyond [-1, 1] are clipped.

    Returns
    -------
    (N, H, W, C) NumPy array of uint8
        The level nearest to (x + 1) * 127.5.

    Raises
    ------
    TypeError
        If `images` are not floats.
    ValueError
        If their shape is another, or an image holds NaN or infinity.
    """
    host = backend_of(images).to_numpy(images)
    if host.dtype.kind in "biuc":
        raise TypeError(f"expected floats in [-1, 1], got an array of {host.dtype}")
    if not 2 <= host.ndim <= 4 or (host.ndim > 2 and host.shape[-3] not in (1, 3)):
        raise ValueError(f"expected images (N, C, H, W), (C, H, W) or (H, W), C = 1 or 3, got {host.shape}")
    batch = host.astype(np.float32).reshape((1,) * (4 - host.ndim) + host.shape)
    finite = np.isfinite(batch).all(axis=(1, 2, 3))
    if not finite.all():
        index = int(finite.argmin())
        what = "NaN" if np.isnan(batch[index]).any() else "infinity"
        raise ValueError(f"image {index} of {len(batch)} holds {what}")
    levels = np.rint((np.clip(batch, -1, 1) + 1) * 127.5)
    return levels.astype(np.uint8).transpose(0, 2, 3, 1)


def grid(
    images: Array,
    columns: int | None = None,
    *,
    padding: int = 2,
    scale: int | None = None,
    row_captions: Sequence[str] = (),
    column_captions: Sequence[str] = (),
) -> Picture:
    """One picture of many images, row by row.

    Parameters
    ----------
    images : (N, C, H, W), (C, H, W) or (H, W) array of floats
        In [-1, 1]; see `to_uint8`.
    columns : int, optional
        As many as make the grid about square, if not given.
    padding : int
        White pixels between the images and around them.
    scale : int, optional
        How many times larger each pixel becomes. If not given, the smallest that makes an image at least 64
        pixels high and wide.
    row_captions, column_captions : sequence of str
        Written on the left and above: one for each row or column, or none. What does not fit is cut.

    Returns
    -------
    (height, width, C) NumPy array of uint8
    """
    levels = to_uint8(images)
    columns = math.ceil(math.sqrt(len(levels))) if columns is None else columns
    return _grid(levels, columns, padding, scale, row_captions, column_captions)


def strip(
    frames: Sequence[Array],
    *,
    padding: int = 2,
    scale: int | None = None,
    row_captions: Sequence[str] = (),
    column_captions: Sequence[str] = (),
) -> Picture:
    """One picture of how images change: a row for each image, a column for each moment.

    Parameters
    ----------
    frames : sequence of (N, C, H, W), (C, H, W) or (H, W) arrays of floats
        The same images at each moment, from left to right; for example what a sampler holds after each step.
    padding, scale, row_captions, column_captions
        As in `grid`.

    Returns
    -------
    (height, width, C) NumPy array of uint8
    """
    moments = [to_uint8(frame) for frame in frames]
    shapes = {moment.shape for moment in moments}
    if len(shapes) != 1:
        raise ValueError(f"expected frames of one shape, got (N, H, W, C) = {sorted(shapes)}")
    levels = np.stack(moments, axis=1).reshape(-1, *moments[0].shape[1:])
    return _grid(levels, len(moments), padding, scale, row_captions, column_captions)


def save_png(path: str | Path, picture: Array) -> None:
    """Write a PNG file, which appears under its name only when it is complete.

    Parameters
    ----------
    path : str or Path
        Its folder must exist.
    picture : (H, W, C) array of uint8, or images as for `grid`
        Images are put into a grid first.
    """
    image = _pillow(picture)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def save_gif(path: str | Path, frames: Sequence[Array], *, seconds: float = 0.1) -> None:
    """Write an animated GIF file that repeats for ever, atomically like `save_png`.

    Parameters
    ----------
    path : str or Path
        Its folder must exist.
    frames : sequence of (H, W, C) arrays of uint8, or of images as for `grid`
    seconds : float
        How long each frame is shown.
    """
    if not frames:
        raise ValueError("expected at least one frame, got none")
    first, *rest = [_pillow(frame) for frame in frames]
    with atomic_path(path) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=rest, duration=round(1000 * seconds), loop=0
        )


def _grid(
    levels: NDArray[np.uint8],
    columns: int,
    padding: int,
    scale: int | None,
    row_captions: Sequence[str],
    column_captions: Sequence[str],
) -> Picture:
    count, height, width, _ = levels.shape
    if 0 in levels.shape:
        raise ValueError(
            f"expected at least one image of at least one pixel, got (N, H, W, C) {levels.shape}"
        )
    scale = math.ceil(EASY_TO_SEE / min(height, width)) if scale is None else scale
    if columns < 1 or scale < 1 or padding < 0:
        raise ValueError(
            f"expected columns and scale >= 1 and padding >= 0, got {columns}, {scale} and {padding}"
        )
    rows = math.ceil(count / columns)
    for texts, expected, what in ((row_captions, rows, "row"), (column_captions, columns, "column")):
        if len(texts) not in (0, expected):
            raise ValueError(f"expected {expected} {what} captions, or none, got {len(texts)}")
    picture = _tile(levels.repeat(scale, axis=1).repeat(scale, axis=2), rows, columns, padding)
    step_y, step_x = height * scale + padding, width * scale + padding
    if len(column_captions):
        labels = _labels(column_captions, width=step_x)
        picture = _add_left(picture.swapaxes(0, 1), [label.swapaxes(0, 1) for label in labels]).swapaxes(0, 1)
    if len(row_captions):
        picture = _add_left(picture, _labels(row_captions, height=step_y))
    return picture


def _tile(images: NDArray[np.uint8], rows: int, columns: int, padding: int) -> Picture:
    missing = rows * columns - len(images)
    gap = (padding, 0)  # above and to the left of every image; the last two edges come last
    images = np.pad(images, ((0, missing), gap, gap, (0, 0)), constant_values=WHITE)
    _, height, width, channels = images.shape
    tiles = images.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    picture = tiles.reshape(rows * height, columns * width, channels)
    return np.pad(picture, ((0, padding), (0, padding), (0, 0)), constant_values=WHITE)


def _add_left(picture: Picture, labels: list[Picture]) -> Picture:
    column = np.concatenate(labels)
    margin = np.full((picture.shape[0], column.shape[1], picture.shape[2]), WHITE, np.uint8)
    margin[-len(column) :] = column  # the last row ends where the picture ends
    return np.concatenate([margin, picture], axis=1)


def _labels(texts: Sequence[str], *, width: int | None = None, height: int | None = None) -> list[Picture]:
    """Black on white, centred, (height, width, 1) each; a measure that is not given fits the longest.

    The font is the one that Pillow brings, which knows ASCII; other letters become question marks.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    texts = [str(text).encode("ascii", "replace").decode() for text in texts]
    sizes = [(math.ceil(right), math.ceil(bottom)) for _, _, right, bottom in map(font.getbbox, texts)]
    width = max(right for right, _ in sizes) + 2 * MARGIN if width is None else width
    height = max(bottom for _, bottom in sizes) + MARGIN if height is None else height
    labels = []
    for text, (right, bottom) in zip(texts, sizes, strict=True):
        paper = Image.new("L", (width, height), WHITE)
        corner = (max(0, (width - right) // 2), max(0, (height - bottom) // 2))
        ImageDraw.Draw(paper).text(corner, text, fill=0, font=font)
        labels.append(np.asarray(paper)[..., None])
    return labels


def _pillow(picture: Array) -> Image.Image:
    from PIL import Image

    host: NDArray[Any] = backend_of(picture).to_numpy(picture)
    if host.dtype != np.uint8:
        host = grid(picture)
    if host.ndim != 3 or host.shape[-1] not in (1, 3) or 0 in host.shape:
        raise ValueError(f"expected a picture (H, W, C) with C = 1 or 3, got {host.shape}")
    return Image.fromarray(host[..., 0] if host.shape[-1] == 1 else host)
