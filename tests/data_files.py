"""Files that are read as training data: small ones with random levels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.data.cifar import RECORD

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def levels(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def header(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def idx(array: Any) -> bytes:
    return header(0x800 + array.ndim, *array.shape) + bytes(array)


def write_idx(folder: Path) -> tuple[Any, Any]:
    pixels, labels = levels(20, 5, 4), (np.arange(20) % 10).astype(np.uint8)
    (folder / IMAGES).write_bytes(idx(pixels))
    (folder / LABELS).write_bytes(idx(labels))
    return pixels, labels


def write_cifar(folder: Path, count: int = 3) -> Any:
    records = np.zeros(6 * count, RECORD)
    records["label"] = np.arange(6 * count) % 10
    records["pixels"] = levels(6 * count, 3, 32, 32)
    for number in range(5):
        (folder / f"data_batch_{number + 1}.bin").write_bytes(records[number * count :][:count].tobytes())
    (folder / "test_batch.bin").write_bytes(records[5 * count :].tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    return records


def write_picture(path: Path, pixels: Any, **options: Any) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
