"""MNIST's and CIFAR-10's files: what they hold, what they are called, and how they may be damaged."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minidiff.data import DataError, load_cifar10, load_idx, open_dataset
from tests.data_files import IMAGES, LABELS, header, idx, levels, write_cifar, write_idx

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist

# --- IDX


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize(
    ("split", "count", "first"), [("train", 60_000, [9, 0, 0]), ("test", 10_000, [9, 2, 1])]
)
def test_fashion_mnist(split: str, count: int, first: list[int]) -> None:
    dataset = load_idx(FASHION_MNIST, split)
    assert (len(dataset), dataset.image_shape) == (count, (1, 28, 28))
    assert dataset.labels is not None
    assert dataset.labels[:3].tolist() == first
    assert np.bincount(dataset.labels).tolist() == [count // 10] * 10
    assert dataset.class_names[0] == "T-shirt/top"
    assert dataset.class_names[9] == "Ankle boot"
    if split == "train":  # the mean and deviation that everybody normalizes with
        assert dataset.pixels.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
        assert dataset.pixels.std() / 255 == pytest.approx(0.3530, abs=1e-4)


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_names(tmp_path: Path, dot: bool, zipped: bool, split: str) -> None:
    pixels, labels = write_idx(tmp_path)
    for name in (IMAGES, LABELS):
        path = tmp_path / name
        data = path.read_bytes()
        path.unlink()
        name = name.replace("-idx", ".idx") if dot else name
        name = name.replace("train", "t10k") if split == "test" else name
        (tmp_path / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    dataset = load_idx(str(tmp_path), split)
    np.testing.assert_array_equal(dataset.pixels[:, 0], pixels)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.name == f"{tmp_path.name}/{split}"


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    pixels, _ = write_idx(tmp_path)
    (tmp_path / IMAGES).rename(tmp_path / f"{IMAGES}.gz")
    (tmp_path / LABELS).write_bytes(gzip.compress((tmp_path / LABELS).read_bytes()))
    np.testing.assert_array_equal(load_idx(tmp_path).pixels[:, 0], pixels)


FAR_TOO_LARGE = 0xFFFFFFFF
BAD_IDX: dict[str, tuple[bytes, str]] = {
    "short": (header(0x803, 60000, 28, 28) + bytes(1008), "47040016 .* 60000 images of 28x28, found 1024"),
    "long": (header(0x803, 2, 3, 4) + bytes(25), "expected 40 bytes for 2 images of 3x4, found more"),
    "empty": (b"", "expected a header of 16 bytes, found 0"),
    "half a header": (header(0x803, 1), "expected a header of 16 bytes, found 8"),
    "labels": (header(0x801, 20, 0, 0), r"magic number 0x00000803 .*, found 0x00000801"),
    "floats": (header(0xD03, 2, 1, 1) + bytes(8), r"magic number 0x00000803 .*, found 0x00000d03"),
    "foreign": (b"\x89PNG\r\n\x1a\n" + bytes(20), "found 0x89504e47"),
    "none": (header(0x803, 0, 28, 28), "holds 0 images of 28x28"),
    "flat": (header(0x803, 5, 28, 0), "holds 5 images of 28x0"),
    "fewer": (header(0x803, 2, 1, 1) + bytes(2), f"holds 2 images, but .*{LABELS} 20 labels"),
    "huge": (header(0x803, *[FAR_TOO_LARGE] * 3) + bytes(8), "images of 4294967295x4294967295, found 24"),
    "gzip of nothing": (gzip.compress(b""), "expected a header of 16 bytes, found 0"),
    "half a gzip": (gzip.compress(idx(levels(20, 5, 4)))[:300], "damaged gzip file"),
    "gzip and more": (gzip.compress(header(0x803, 1, 1, 1) + b"x") + b"more", "damaged gzip file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_files(tmp_path: Path, case: str) -> None:
    write_idx(tmp_path)
    data, message = BAD_IDX[case]
    (tmp_path / IMAGES).write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        load_idx(tmp_path)
    assert str(tmp_path / IMAGES) in str(error.value)


LIES = {
    "plain": header(0x803, *[FAR_TOO_LARGE] * 3) + bytes(100),
    "zipped": gzip.compress(header(0x803, FAR_TOO_LARGE, 1 << 15, 1) + bytes(100)),
    "bomb": gzip.compress(header(0x803, 10, 28, 28) + bytes(1 << 26)),
}


@pytest.mark.parametrize("case", LIES)
def test_lies_take_no_memory(tmp_path: Path, case: str) -> None:
    write_idx(tmp_path)
    (tmp_path / IMAGES).write_bytes(LIES[case])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="expected"):
            load_idx(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_missing_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(DataError, match=f"no file {LABELS} .*train-labels.idx1-ubyte.gz"):
        load_idx(tmp_path)
    with pytest.raises(DataError, match="no file t10k-images-idx3-ubyte"):
        load_idx(tmp_path, "test")
    with pytest.raises(DataError, match="unknown split 'valid'; there are 'train', 'test'"):
        load_idx(tmp_path, "valid")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_idx(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"{IMAGES}: not a folder"):
        load_idx(tmp_path / IMAGES)


# --- CIFAR-10


def test_cifar_records(tmp_path: Path) -> None:
    records = write_cifar(tmp_path)
    train, test = load_cifar10(tmp_path), load_cifar10(str(tmp_path), "test")
    np.testing.assert_array_equal(np.concatenate([train.pixels, test.pixels]), records["pixels"])
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), records["label"])
    assert train.class_names == test.class_names == tuple(f"class{i}" for i in range(10))
    assert train.name == f"{tmp_path.name}/train"


def test_a_cifar_record_is_a_label_and_red_green_blue_planes(tmp_path: Path) -> None:
    write_cifar(tmp_path, count=1)
    record = bytes([7]) + bytes([200]) * 1024 + bytes([100]) * 1024 + bytes(range(256)) * 4
    (tmp_path / "test_batch.bin").write_bytes(record)
    dataset = load_cifar10(tmp_path, "test")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [7]
    red, green, blue = dataset.pixels[0]
    assert (red == 200).all()
    assert (green == 100).all()
    assert blue[1, 3] == 35


BAD_CIFAR: dict[str, tuple[str, bytes | None, str]] = {
    "truncated": ("data_batch_3.bin", bytes(3072), "data_batch_3.bin: .*a multiple of 3073 .*found 3072"),
    "empty": ("data_batch_1.bin", b"", "data_batch_1.bin: expected .* found 0"),
    "foreign": ("data_batch_2.bin", bytes(3073) + b"\xc8" * 3073, "image 1 has label 200, expected 0 to 9"),
    "shorter": ("data_batch_2.bin", bytes(3073), r"hold \[3, 1, 3, 3, 3\] images; one of them is truncated"),
    "missing": ("data_batch_5.bin", None, "no file data_batch_5.bin$"),
    "no names": ("batches.meta.txt", None, "no file batches.meta.txt$"),
    "few names": ("batches.meta.txt", b"cat\ndog\n", "names of 10 classes, found 2"),
    "odd names": ("batches.meta.txt", bytes(range(128, 256)), "names of 10 classes, found 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CIFAR)
def test_bad_cifar_files(tmp_path: Path, case: str) -> None:
    write_cifar(tmp_path)
    name, data, message = BAD_CIFAR[case]
    if data is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        load_cifar10(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_cifar_as_pickles_is_explained(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="Python pickles: use cifar-10-binary"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="unknown split 'valid'"):
        load_cifar10(tmp_path, "valid")
