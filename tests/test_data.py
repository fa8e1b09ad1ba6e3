"""Data sets: what is in them and what is wrong with them, the digits, and which one a name or folder means."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff.data import DataError, Dataset, load_digits, open_dataset
from tests.data_files import IMAGES, levels, write_cifar, write_idx, write_picture


def test_levels_become_exact_floats() -> None:
    pixels = np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1)
    images, labels = Dataset(pixels, max_value=16).batch(slice(None))
    assert labels is None
    assert images.dtype == np.float32
    assert images.ravel().tolist() == [level / 8 - 1 for level in range(17)]
    images, _ = Dataset(np.asarray([0, 51, 255], np.uint8).reshape(3, 1, 1, 1)).batch(
        np.asarray([2, 1, 0, 0])
    )
    np.testing.assert_allclose(images.ravel(), [1, -0.6, -1, -1], rtol=1e-7)
    assert images[0, 0, 0, 0] == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_stay_as_they_are(dtype: Any) -> None:
    pixels = np.random.default_rng(0).uniform(-1, 1, (4, 2, 3, 5)).astype(dtype)
    dataset = Dataset(pixels, np.asarray([1, 0, 1, 0], np.uint8), ("a", "b"), name="mine")
    images, labels = dataset.batch(np.asarray([3, 2]))
    assert images.dtype == np.float32
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1]
    np.testing.assert_array_equal(images, pixels[[3, 2]].astype(np.float32))
    images[...] = 0
    np.testing.assert_array_equal(dataset.pixels, pixels)
    assert dataset.pixels.any()
    assert (len(dataset), dataset.image_shape, dataset.num_classes) == (4, (2, 3, 5), 2)
    kind = f"{np.dtype(dtype)} images of shape (2, 3, 5)"
    assert repr(dataset) == f"Dataset('mine', 4 {kind}, 2 classes)"


def with_value(value: float) -> Any:
    pixels = np.zeros((20, 1, 2, 2), np.float32)
    pixels[17, 0, 1, 1] = value
    return pixels


PIXELS = np.zeros((3, 1, 2, 2), np.uint8)
BAD_DATASETS: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"pixels": with_value(np.nan)}, r"^images: image 17 holds NaN$"),
    "infinity": ({"pixels": with_value(np.inf)}, r"image 17 holds inf, outside \[-1, 1\]"),
    "range": ({"pixels": with_value(-1.5)}, r"image 17 holds -1\.5, outside \[-1, 1\]"),
    "level": ({"pixels": PIXELS + np.uint8(17), "max_value": 16}, r"image 0 holds 17, outside \[0, 16\]"),
    "max_value": ({"pixels": PIXELS, "max_value": 0}, r"max_value must lie in \[1, 255\], got 0"),
    "axes": ({"pixels": PIXELS[0]}, r"shape \(N, C, H, W\), found \(1, 2, 2\)"),
    "empty": ({"pixels": PIXELS[:0]}, r"found \(0, 1, 2, 2\)"),
    "integers": ({"pixels": PIXELS.astype(np.int32)}, "uint8 or float, found int32"),
    "list": ({"pixels": [[0.0]]}, "in a NumPy array, got list"),
    "length": (
        {"pixels": PIXELS, "labels": np.zeros(2, int), "class_names": ("a",)},
        "3 images, but 2 labels",
    ),
    "label": (
        {"pixels": PIXELS, "labels": np.asarray([0, 1, 2]), "class_names": ("a", "b")},
        "image 2 has label 2, but there are 2 class names",
    ),
    "negative": (
        {"pixels": PIXELS, "labels": np.asarray([0, -1, 0]), "class_names": ("a", "b")},
        "image 1 has label -1",
    ),
    "unsigned": (
        {"pixels": PIXELS, "labels": np.full(3, 2**63, np.uint64), "class_names": ("a",)},
        "image 0 has label 9223372036854775808",
    ),
    "float labels": ({"pixels": PIXELS, "labels": np.zeros(3), "class_names": ("a",)}, "array of integers"),
    "axes of labels": ({"pixels": PIXELS, "labels": np.zeros((3, 1), int)}, r"of shape \(N,\)"),
    "no labels": ({"pixels": PIXELS, "class_names": ("a",)}, "1 class names, but no labels"),
}


@pytest.mark.parametrize("case", BAD_DATASETS)
def test_bad_arrays(case: str) -> None:
    arguments, message = BAD_DATASETS[case]
    with pytest.raises(DataError, match=message):
        Dataset(**arguments)


# --- digits


def test_digits_are_those_of_uci() -> None:
    digits = load_digits()
    images, labels = digits.batch(slice(None))
    assert (len(digits), digits.image_shape, digits.class_names) == (1797, (1, 8, 8), tuple("0123456789"))
    assert labels is not None
    uci = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # its own table
    assert np.bincount(labels).tolist() == uci
    assert np.unique(images).tolist() == [level / 8 - 1 for level in range(17)]


def test_digits_equal_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    digits = open_dataset("digits", size=8)
    np.testing.assert_array_equal(digits.pixels.reshape(-1, 64), pixels)
    np.testing.assert_array_equal(digits.labels, labels)


def test_digits_come_with_their_licence() -> None:
    text = files("minidiff.data").joinpath("DIGITS_LICENSE.txt").read_text(encoding="utf-8")
    for part in ("CC BY 4.0", "https://doi.org/10.24432/C50P49", "Alpaydin", "Kaynak", "Changes"):
        assert part in text


# --- which of them is it?


def test_open_dataset_recognises_each(tmp_path: Path) -> None:
    for name, write in (("idx", write_idx), ("cifar", write_cifar)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    write_picture(tmp_path / "pictures" / "a.jpg", levels(9, 9, 3))
    assert open_dataset("digits").name == "digits"
    assert open_dataset(tmp_path / "idx").name == "idx/train"
    assert open_dataset(str(tmp_path / "cifar"), size=32).name == "cifar/train"
    assert open_dataset(tmp_path / "pictures", size=6).image_shape == (3, 6, 6)
    assert open_dataset(tmp_path / "pictures", size=6, channels=1).image_shape == (1, 6, 6)


def test_open_dataset_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*data_batch_1\.bin.*\.png, .jpg.*'digits'"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="digit: no such folder"):
        open_dataset("digit")
    with pytest.raises(DataError, match="digits: images are 8x8, not 32x32"):
        open_dataset("digits", size=32)
    write_picture(tmp_path / "digits" / "a.png", levels(5, 5))
    with pytest.raises(DataError, match="give a size in pixels"):
        open_dataset(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("digits")) == 1797
    assert len(open_dataset("./digits", size=5)) == 1
    write_idx(tmp_path)
    with pytest.raises(DataError, match="images are 5x4, not 5x5"):
        open_dataset(tmp_path, size=5)
    (tmp_path / IMAGES).unlink()
    with pytest.raises(DataError, match=f"no file {IMAGES}"):
        open_dataset(tmp_path)
