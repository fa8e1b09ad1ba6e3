"""Data files with bits flipped, ends cut off and noise in them: each is read, or refused with a DataError."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from minidiff.data import DataError, Dataset, load_cifar10, load_folder, load_idx
from tests.data_files import IMAGES, LABELS, levels, write_cifar, write_idx


def flip_bits(rng: np.random.Generator, data: bytes, upto: int) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, min(upto, len(data)), rng.integers(1, 5)):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


MUTATIONS: dict[str, Callable[[np.random.Generator, bytes], bytes]] = {
    "header": lambda rng, data: flip_bits(rng, data, 16),
    "bits": lambda rng, data: flip_bits(rng, data, len(data)),
    "shorter": lambda rng, data: data[: rng.integers(len(data))],
    "longer": lambda rng, data: data + rng.bytes(int(rng.integers(1, 40))),
    "noise": lambda rng, data: rng.bytes(int(rng.integers(2 * len(data)))),
    "tail": lambda rng, data: data[: len(data) // 2] + rng.bytes(len(data) // 2),
}


def outcome(load: Callable[[], Dataset]) -> str:
    """Anything but these two is a failure of the test."""
    try:
        images, _ = load().batch(slice(None))
    except DataError:
        return "error"
    assert np.abs(images).max() <= 1
    return "dataset"


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_fuzz_idx(tmp_path: Path, name: str, zipped: bool, mutation: str) -> None:
    write_idx(tmp_path)
    data = (tmp_path / name).read_bytes()
    data = gzip.compress(data, mtime=0) if zipped else data
    seen = set()
    for seed in range(100):
        (tmp_path / name).write_bytes(MUTATIONS[mutation](np.random.default_rng(seed), data))
        seen.add(outcome(lambda: load_idx(tmp_path)))
    assert "error" in seen or (mutation, zipped) in {("bits", False), ("tail", False)}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("name", ["data_batch_4.bin", "batches.meta.txt"])
def test_fuzz_cifar(tmp_path: Path, name: str, mutation: str) -> None:
    write_cifar(tmp_path, count=1)
    data = (tmp_path / name).read_bytes()
    for seed in range(50):
        (tmp_path / name).write_bytes(MUTATIONS[mutation](np.random.default_rng(seed), data))
        outcome(lambda: load_cifar10(tmp_path))


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "webp"])
def test_fuzz_pictures(tmp_path: Path, kind: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 16)
    memory = BytesIO()
    Image.fromarray(levels(12, 10, 3)).save(memory, format=kind)
    for seed in range(15):
        data = MUTATIONS[mutation](np.random.default_rng(seed), memory.getvalue())
        (tmp_path / f"a.{kind}").write_bytes(data)
        outcome(lambda: load_folder(tmp_path, 8))
