"""CIFAR-10 in its binary version.

Its files are nothing but records of 3,073 bytes, a label and the levels of a picture, without any header. So
a file of the wrong kind shows only in its size and in labels that do not exist. The version "for Python" is a
pickle, which may run any code when it is read, and is not supported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.data.dataset import DataError, Dataset, existing_folder

__all__ = ["load_cifar10"]

FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
NAMES = "batches.meta.txt"
SHAPE = (3, 32, 32)
RECORD = np.dtype([("label", np.uint8), ("pixels", np.uint8, SHAPE)])
CLASSES = 10


def load_cifar10(folder: str | Path, split: str = "train") -> Dataset:
    """Read CIFAR-10 from the files of `cifar-10-binary.tar.gz`.

    Parameters
    ----------
    folder : str or Path
        Holds `batches.meta.txt` and `data_batch_1.bin` ... `data_batch_5.bin` or `test_batch.bin`.
    split : {"train", "test"}

    Returns
    -------
    Dataset
        `pixels` (N, 3, 32, 32) uint8, with the ten class names of `batches.meta.txt`.

    Raises
    ------
    DataError
        If a file is missing, is truncated or is not of this format.

    References
    ----------
    A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    https://www.cs.toronto.edu/~kriz/cifar.html
    """
    folder = existing_folder(folder)
    if split not in FILES:
        raise DataError(f"unknown split {split!r}; there are {', '.join(map(repr, FILES))}")
    records = [_read(folder / name) for name in FILES[split]]
    counts = [len(part) for part in records]
    if len(set(counts)) > 1:
        raise DataError(f"{folder}: {', '.join(FILES[split])} hold {counts} images; one of them is truncated")
    pixels = np.concatenate([part["pixels"] for part in records])
    labels = np.concatenate([part["label"] for part in records])
    return Dataset(pixels, labels, _class_names(folder / NAMES), name=f"{folder.resolve().name}/{split}")


def _read(path: Path) -> NDArray[Any]:
    _check_exists(path)
    size = path.stat().st_size
    if size == 0 or size % RECORD.itemsize:
        raise DataError(f"{path}: expected a multiple of {RECORD.itemsize} bytes, one record, found {size}")
    records = np.fromfile(path, RECORD)
    labels = records["label"]
    if labels.max() >= CLASSES:
        index = int((labels >= CLASSES).argmax())
        raise DataError(f"{path}: image {index} has label {labels[index]}, expected 0 to {CLASSES - 1}")
    return records


def _class_names(path: Path) -> tuple[str, ...]:
    _check_exists(path)
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split())
    if len(names) != CLASSES:
        raise DataError(f"{path}: expected the names of {CLASSES} classes, found {len(names)}")
    return names


def _check_exists(path: Path) -> None:
    if not path.is_file():
        pickled = path.with_suffix("").is_file() or path.with_name("batches.meta").is_file()
        hint = "; this is CIFAR-10 as Python pickles: use cifar-10-binary.tar.gz instead" if pickled else ""
        raise DataError(f"{path.parent}: no file {path.name}{hint}")
