"""Data sets: what is in them, what is wrong with them, and files that lie."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff.data import DataError, Dataset, load_cifar10, load_digits, load_folder, load_idx, open_dataset
from minidiff.data.cifar import RECORD

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
RNG = np.random.default_rng(0)
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def levels(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def header(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def idx(array: Any) -> bytes:
    return header(0x800 + array.ndim, *array.shape) + bytes(array)


def write_idx(folder: Path, count: int = 20) -> tuple[Any, Any]:
    pixels, labels = levels(count, 5, 4), (np.arange(count) % 10).astype(np.uint8)
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


# Dataset


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
    pixels = RNG.uniform(-1, 1, (4, 2, 3, 5)).astype(dtype)
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


# Digits


def test_digits_are_those_of_uci() -> None:
    digits = load_digits()
    images, labels = digits.batch(slice(None))
    assert (len(digits), digits.image_shape, digits.class_names) == (1797, (1, 8, 8), tuple("0123456789"))
    assert labels is not None
    assert np.bincount(labels).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # UCI's own table
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


# IDX


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


# CIFAR-10


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


# Folders of pictures


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name, level in (("b/1.png", 10), ("a/x/2.PNG", 20), ("b/0.bmp", 30)):
        write_picture(tmp_path / name, np.full((6, 6, 3), level, np.uint8))
    dataset = load_folder(tmp_path, size=4)
    assert dataset.class_names == ("a", "b")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.pixels[:, :, 0, 0].tolist() == [[20] * 3, [30] * 3, [10] * 3]
    assert (dataset.image_shape, dataset.name) == ((3, 4, 4), tmp_path.name)
    write_picture(tmp_path / "beside.gif", np.zeros((6, 6), np.uint8))
    assert load_folder(str(tmp_path), 4, channels=1).labels is None


def test_one_sub_folder_is_no_class_and_hidden_files_do_not_count(tmp_path: Path) -> None:
    write_picture(tmp_path / "a" / "1.png", levels(5, 5))
    for hidden in ("a/._1.png", ".trash/2.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    dataset = load_folder(tmp_path, 5, channels=1)
    assert (len(dataset), dataset.labels, dataset.class_names) == (1, None, ())


@pytest.mark.parametrize("wide", [True, False])
def test_the_central_square_is_cut_out(tmp_path: Path, wide: bool) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10, 0] = pixels[:, 10:20, 1] = pixels[:, 20:, 2] = 255
    write_picture(tmp_path / "a.png", pixels if wide else pixels.swapaxes(0, 1))
    dataset = load_folder(tmp_path, size=5)
    assert (dataset.pixels[0] == np.asarray([0, 255, 0]).reshape(3, 1, 1)).all()


def test_pixels_keep_their_places_and_channels(tmp_path: Path) -> None:
    pixels = levels(7, 7, 3)
    write_picture(tmp_path / "a.png", pixels)
    write_picture(tmp_path / "b.webp", pixels, lossless=True)
    dataset = load_folder(tmp_path, size=7)
    np.testing.assert_array_equal(dataset.pixels, np.stack([pixels.transpose(2, 0, 1)] * 2))
    grey = load_folder(tmp_path, size=7, channels=1).pixels[0, 0]
    luma = pixels @ np.asarray([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(grey, luma, atol=1)


def test_a_camera_says_which_side_is_up(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((16, 16), np.uint8)
    pixels[:, :8] = 255  # the left half, which is up once the picture is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    write_picture(tmp_path / "a.jpg", pixels, exif=exif, quality=95)
    turned = load_folder(tmp_path, 16, channels=1).pixels[0, 0]
    assert turned[:7].min() > 250
    assert turned[9:].max() < 5


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[2:, :, 3] = 255
    write_picture(tmp_path / "a.png", pixels)
    palette = Image.fromarray(pixels[..., 0] * 0)
    palette.putpalette([200, 0, 0] + [0] * 765)
    palette.save(tmp_path / "b.png", transparency=bytes([0]))
    dataset = load_folder(tmp_path, 4)
    assert (dataset.pixels[0, :, :2] == 255).all()
    assert dataset.pixels[0, :, 3, 0].tolist() == [200, 0, 0]
    assert (dataset.pixels[1] == 255).all()


def test_sixteen_bit_pictures_are_scaled(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.asarray([[0, 257 * 100], [257 * 200, 65535]], np.uint16))
    np.testing.assert_allclose(load_folder(tmp_path, 2).pixels[0, 1], [[0, 100], [200, 255]], atol=1)


def test_all_bad_pictures_are_counted_and_some_named(tmp_path: Path) -> None:
    for number in range(8):
        write_picture(tmp_path / f"good{number}.png", levels(5, 5))
        (tmp_path / f"bad{number}.png").write_bytes(b"\x89PNG" + bytes(number))
    with pytest.raises(
        DataError, match=r"8 of 16 pictures cannot be read: bad0.png \(.*bad4.png.* and 3 more"
    ):
        load_folder(tmp_path, 4)


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    write_picture(tmp_path / "large.png", levels(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(DataError, match=r"1 of 1 pictures cannot be read: large.png \(.*exceeds limit"):
        load_folder(tmp_path, 4)


def test_bad_requests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures \(.png, .jpg,"):
        load_folder(tmp_path, 4)
    with pytest.raises(DataError, match="got size 0 and channels 3"):
        load_folder(tmp_path, 0)
    with pytest.raises(DataError, match="got size 4 and channels 2"):
        load_folder(tmp_path, 4, channels=2)
    with pytest.raises(DataError, match="no such folder"):
        load_folder(tmp_path / "nowhere", 4)


def test_many_pictures_show_progress_to_people_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tqdm

    write_picture(tmp_path / "a.png", levels(5, 5))
    asked: list[Any] = []
    real: Any = tqdm.tqdm

    def watched(*args: Any, disable: bool | None, **options: Any) -> Any:
        asked.append(disable)
        return real(*args, disable=disable, **options)

    monkeypatch.setattr(tqdm, "tqdm", watched)
    load_folder(tmp_path, 5)
    monkeypatch.setattr("minidiff.data.folder.MANY", 1)
    load_folder(tmp_path, 5)
    assert asked == [True, None]
    assert capsys.readouterr().err == ""


# Which of them is it?


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


# Files that lie


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
