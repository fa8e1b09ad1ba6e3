"""MNIST, Fashion-MNIST and their relatives: IDX files.

An IDX file is a magic number (two zero bytes, the type of an entry, the number of axes), the length of each
axis as a big-endian 32-bit number, and the entries. The header may claim anything, so memory is taken only
for bytes that the file really has, and no more of a compressed file is unpacked than the header announced.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from minidiff.data.dataset import DataError, Dataset, existing_folder

__all__ = ["load_idx"]

STEMS = {"train": "train", "test": "t10k"}
GZIP = b"\x1f\x8b"
UNSIGNED_BYTES = 0x0800  # the magic number without its last byte, the number of axes
CHUNK = 1 << 20

FASHION: tuple[str, ...] = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CLASS_NAMES = {0x2ED6E46A: FASHION, 0x242BC73F: FASHION}  # by the CRC-32 of the labels, training and test


def load_idx(folder: str | Path, split: str = "train") -> Dataset:
    """Read MNIST, Fashion-MNIST, or another data set in their format.

    Parameters
    ----------
    folder : str or Path
        Holds the two files of the split under their usual names, such as `train-images-idx3-ubyte` (or
        `train-images.idx3-ubyte`) and `train-labels-idx1-ubyte`, each plain or with `.gz`.
    split : {"train", "test"}

    Returns
    -------
    Dataset
        `pixels` (N, 1, H, W) uint8. The files name no classes: Fashion-MNIST is recognised by its labels and
        gets the names it was published with, every other set gets "0", "1", ..., which suits MNIST.

    Raises
    ------
    DataError
        If a file is missing, is truncated or is no IDX file, or the two do not belong together.

    References
    ----------
    Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", 1998.
    H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", 2017. https://arxiv.org/abs/1708.07747
    """
    folder = existing_folder(folder)
    images_path, labels_path = (_find(folder, idx_names(kind, split)) for kind in ("images", "labels"))
    pixels, labels = _read(images_path, axes=3), _read(labels_path, axes=1)
    if len(pixels) != len(labels):
        raise DataError(f"{images_path} holds {len(pixels)} images, but {labels_path} {len(labels)} labels")
    names = CLASS_NAMES.get(zlib.crc32(labels.data), tuple(str(i) for i in range(int(labels.max()) + 1)))
    return Dataset(pixels[:, None], labels, names, name=f"{folder.resolve().name}/{split}")


def idx_names(kind: str, split: str) -> list[str]:
    """The names under which `kind` ("images" or "labels") of a split is found, the most usual first."""
    if split not in STEMS:
        raise DataError(f"unknown split {split!r}; there are {', '.join(map(repr, STEMS))}")
    axes = {"images": 3, "labels": 1}[kind]
    return [f"{STEMS[split]}-{kind}{mark}idx{axes}-ubyte{end}" for mark in "-." for end in ("", ".gz")]


def _find(folder: Path, names: list[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: no file {names[0]} (nor {', '.join(names[1:])})")


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        zipped = file.peek(2)[:2] == GZIP  # whatever the name says: some programs unpack and keep it
        try:
            return _parse(gzip.GzipFile(fileobj=file) if zipped else file, path, axes)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file ({error})") from error


def _parse(file: IO[bytes] | gzip.GzipFile, path: Path, axes: int) -> NDArray[np.uint8]:
    size = 4 + 4 * axes
    header = file.read(size)
    if len(header) < size:
        raise DataError(f"{path}: expected a header of {size} bytes, found {len(header)}")
    magic, *shape = struct.unpack(f">{1 + axes}I", header)
    if magic != UNSIGNED_BYTES + axes:
        raise DataError(
            f"{path}: expected the magic number {UNSIGNED_BYTES + axes:#010x} "
            f"(bytes, number of axes {axes}), found {magic:#010x}"
        )
    count, *sides = shape
    what = f"{count} images of {'x'.join(map(str, sides))}" if sides else f"{count} labels"
    expected = math.prod(shape)
    if expected == 0:
        raise DataError(f"{path}: holds {what}")
    entries = bytearray()
    while chunk := file.read(min(CHUNK, expected + 1 - len(entries))):
        entries += chunk
    if len(entries) != expected:
        found = "more" if len(entries) > expected else f"{size + len(entries)}"
        raise DataError(f"{path}: expected {size + expected} bytes for {what}, found {found}")
    return np.frombuffer(entries, np.uint8).reshape(shape)
