"""A folder of pictures, of whatever sizes they are.

Every picture is cut to its central square and resized once, when it is loaded, so that training only reads an
array. Bad files among thousands should not be found one at a time: all are tried before an error names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minidiff.data.dataset import DataError, Dataset, existing_folder

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["load_folder"]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels
MANY = 500  # pictures that take long enough for a progress bar
NAMED = 5  # bad files that an error names


def load_folder(folder: str | Path, size: int, channels: int = 3) -> Dataset:
    """Read all pictures in a folder and in the folders inside it.

    Parameters
    ----------
    folder : str or Path
        Holds .png, .jpg, .webp, .bmp or .gif files (the first frame counts). If all of them are in two or
        more sub-folders, these are the classes, in alphabetical order; otherwise there are no labels. Links to
        folders are followed; hidden files and folders are left out.
    size : int
        Height and width of the result, in pixels.
    channels : {3, 1}
        Colour or grey.

    Returns
    -------
    Dataset
        `pixels` (N, channels, size, size) uint8, in the order of the sorted paths. Each is the largest
        central square, resized by Lanczos' filter, turned as the camera says; the transparent becomes white.

    Raises
    ------
    DataError
        If there is no picture, or one cannot be read or is beyond Pillow's limit for decompression bombs.
    """
    folder = existing_folder(folder)
    if size < 1 or channels not in MODES:
        raise DataError(f"expected size >= 1 and channels 1 or 3, got size {size} and channels {channels}")
    paths = pictures_in(folder)
    if not paths:
        raise DataError(f"{folder}: no pictures ({', '.join(FORMATS)}) in it")
    pixels = _read_all(folder, paths, size, channels)
    classes, labels = _classes([path.relative_to(folder).parts for path in paths])
    return Dataset(pixels, labels, classes, name=folder.resolve().name)


def pictures_in(folder: Path) -> list[Path]:
    """The paths of all pictures in `folder` and below, also where links lead, sorted; nothing hidden."""
    return sorted(_below(folder, ()))


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:  # a link that leads back
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.suffix.lower() in FORMATS and path.is_file():
            yield path
        elif path.is_dir():
            yield from _below(path, (*above, here))


def _classes(parts: list[tuple[str, ...]]) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    names = sorted({first for first, *rest in parts if rest})
    if len(names) < 2 or any(len(path) == 1 for path in parts):
        return (), None
    return tuple(names), np.asarray([names.index(first) for first, *_ in parts], dtype=np.int64)


def _read_all(folder: Path, paths: list[Path], size: int, channels: int) -> NDArray[np.uint8]:
    from tqdm import tqdm

    pixels = np.empty((len(paths), channels, size, size), np.uint8)
    bad: list[str] = []
    quiet = None if len(paths) >= MANY else True  # None: unless a person watches
    for place, path in zip(pixels, tqdm(paths, unit="file", disable=quiet), strict=True):
        try:
            place[...] = _read(path, size, channels)
        except Exception as error:  # of many kinds: OSError, SyntaxError, ValueError, struct.error, ...
            bad.append(f"{path.relative_to(folder)} ({error})")
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise DataError(
            f"{folder}: {len(bad)} of {len(paths)} pictures cannot be read: {', '.join(bad[:NAMED])}{more}; "
            "remove or replace them"
        )
    return pixels


def _read(path: Path, size: int, channels: int) -> NDArray[Any]:
    """(channels, size, size)."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=sorted(set(FORMATS.values()))) as file:
        picture = _opaque(ImageOps.exif_transpose(file)).convert(MODES[channels])
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))  # first: the filter sees nothing outside
    resized = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(size, size, channels).transpose(2, 0, 1)


def _opaque(picture: Image.Image) -> Image.Image:
    """The picture on white paper, with 8 bits a channel."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255
        return picture.point(lambda level: level * (1 / 257)).convert("L")
    if not picture.has_transparency_data:
        return picture
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
