"""Pictures: levels, layout and files, for arrays of every library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.data import Dataset
from minidiff.images import grid, save_gif, save_png, strip, to_uint8

RNG = np.random.default_rng(0)


def images(*shape: int) -> Any:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def test_levels_of_a_dataset_come_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    floats, _ = Dataset(levels).batch(slice(None))
    np.testing.assert_array_equal(to_uint8(floats)[..., 0], levels[:, 0])


def test_known_levels_and_clipping() -> None:
    row = np.asarray([[-7.0, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5]])
    assert to_uint8(row).ravel().tolist() == [0, 0, 64, 128, 159, 255, 255]  # 63.75, 127.5 (to even), 159.375


def test_every_library_and_shape(backend: Backend) -> None:
    host = images(2, 3, 4, 5)
    expected = np.rint((host + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    result = to_uint8(backend.from_numpy(host))
    assert type(result) is np.ndarray
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(to_uint8(backend.from_numpy(host[1])), expected[1:])
    np.testing.assert_array_equal(to_uint8(backend.from_numpy(host[1, 2])), expected[1:, :, :, 2:])
    assert grid(backend.from_numpy(host)).dtype == np.uint8
    assert strip([backend.from_numpy(host)] * 2).dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_floats(dtype: Any) -> None:
    host = np.asarray([[-1, -0.5, 0.5, 1]]).astype(dtype)
    assert to_uint8(host).ravel().tolist() == [0, 64, 191, 255]


def test_the_input_is_not_changed() -> None:
    host = np.asarray([[-3.0, 3.0]], np.float32)
    to_uint8(host)
    assert host.tolist() == [[-3.0, 3.0]]


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_what_is_not_finite_names_the_image(backend: Backend, value: float, word: str) -> None:
    host = images(20, 1, 2, 2)
    host[17, 0, 1, 0] = value
    with pytest.raises(ValueError, match=f"image 17 of 20 holds {word}"):
        grid(backend.from_numpy(host))


@pytest.mark.parametrize("shape", [(4,), (2, 4, 4), (1, 2, 4, 4), (1, 1, 1, 4, 4), ()])
def test_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="C = 1 or 3, got ") as error:
        to_uint8(np.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_, np.complex64])
def test_only_floats(dtype: Any) -> None:
    with pytest.raises(TypeError, match=f"array of {np.dtype(dtype)}"):
        to_uint8(np.zeros((2, 2), dtype))


def test_grid_against_a_loop() -> None:
    host, padding, scale, columns = images(5, 3, 4, 6), 3, 2, 2
    picture = grid(host, columns, padding=padding, scale=scale)
    expected = np.full((3 + 3 * (8 + 3), 3 + 2 * (12 + 3), 3), 255)
    levels = to_uint8(host)
    for index in range(5):
        for y in range(8):
            for x in range(12):
                at = 3 + index // 2 * 11 + y, 3 + index % 2 * 15 + x
                expected[at] = levels[index, y // 2, x // 2]
    np.testing.assert_array_equal(picture, expected)


def test_default_columns_and_scale() -> None:
    assert grid(images(9, 1, 8, 8), padding=0).shape == (3 * 64, 3 * 64, 1)
    assert grid(images(10, 1, 28, 28), padding=0).shape == (3 * 84, 4 * 84, 1)
    assert grid(images(3, 100, 70), padding=0).shape == (100, 70, 3)
    assert grid(images(2, 1, 16, 32), 1, padding=0).shape == (2 * 64, 128, 1)


def test_strip_has_a_row_for_each_image_and_a_column_for_each_moment() -> None:
    frames = [np.full((2, 1, 1, 1), -1.0) for _ in range(3)]
    for moment, frame in enumerate(frames):
        frame[:, 0, 0, 0] = [moment / 127.5 - 1, (moment + 10) / 127.5 - 1]
    picture = strip(frames, padding=0, scale=1)
    assert picture[..., 0].tolist() == [[0, 1, 2], [10, 11, 12]]


def test_frames_must_agree() -> None:
    with pytest.raises(ValueError, match="frames of one shape"):
        strip([images(2, 1, 4, 4), images(1, 1, 4, 4)])
    with pytest.raises(ValueError, match="frames of one shape"):
        strip([])


@pytest.mark.parametrize(
    "options", [{"columns": 0}, {"scale": 0}, {"padding": -1}, {"columns": -2}, {"scale": -1}]
)
def test_measures_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="columns and scale >= 1 and padding >= 0"):
        grid(images(2, 1, 4, 4), **options)  # type: ignore[arg-type]


def test_no_images() -> None:
    with pytest.raises(ValueError, match=r"at least one image .* \(0, 4, 4, 1\)"):
        grid(images(0, 1, 4, 4))


@pytest.mark.parametrize("padding", [0, 2])
def test_captions_are_beside_their_row_and_above_their_column(padding: int) -> None:
    host = images(6, 1, 8, 8)
    plain = grid(host, 3, padding=padding)
    rows = grid(host, 3, padding=padding, row_captions=["", "III"])
    left = rows.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(rows[:, left:], plain)
    inked = np.flatnonzero((rows[:, :left, 0] < 128).any(axis=1))
    assert abs(inked.mean() - (1.5 * (64 + padding) + padding / 2)) < 4  # the middle of the second row

    columns = grid(host, 3, padding=padding, column_captions=["", "", "I"])
    top = columns.shape[0] - plain.shape[0]
    np.testing.assert_array_equal(columns[top:], plain)
    inked = np.flatnonzero((columns[:top, :, 0] < 128).any(axis=0))
    assert abs(inked.mean() - (2.5 * (64 + padding) + padding / 2)) < 4

    both = grid(host, 3, padding=padding, row_captions=["", "III"], column_captions=["", "", "I"])
    np.testing.assert_array_equal(both[top:, left:], plain)
    np.testing.assert_array_equal(both[top:, :left], rows[:, :left])
    np.testing.assert_array_equal(both[:top, left:], columns[:top])


def test_captions_of_any_kind() -> None:
    host = images(2, 3, 8, 8)
    numbers = grid(host, 2, column_captions=np.asarray([3, 14]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(numbers, grid(host, 2, column_captions=["3", "14"]))
    assert grid(host, 2, column_captions=["猫é", "a" * 500]).shape[1] == 2 + 2 * 66  # cut to its column
    assert grid(host, 1, scale=1, row_captions=["x", "y"]).shape[0] == 2 + 2 * 10  # cut to its row
    assert strip([host, host], row_captions=["a", "b"], column_captions=["1", "2"]).shape[-1] == 3


def test_captions_must_match() -> None:
    with pytest.raises(ValueError, match="expected 2 row captions, or none, got 3"):
        grid(images(4, 1, 4, 4), 2, row_captions=["a", "b", "c"])
    with pytest.raises(ValueError, match="expected 4 column captions, or none, got 1"):
        grid(images(4, 1, 4, 4), 4, column_captions=["a"])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_holds_the_picture(tmp_path: Path, channels: int, mode: str) -> None:
    from PIL import Image

    host = images(4, channels, 8, 8)
    save_png(tmp_path / "a.png", host)
    save_png(str(tmp_path / "b"), grid(host))
    for name in ("a.png", "b"):
        with Image.open(tmp_path / name) as file:
            assert (file.format, file.mode) == ("PNG", mode)
            np.testing.assert_array_equal(np.asarray(file).reshape(130 + 4, 134, channels), grid(host))


def test_png_of_every_library(backend: Backend, tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", backend.from_numpy(images(2, 3, 4, 4)))
    save_png(tmp_path / "b.png", backend.from_numpy(np.zeros((4, 4, 3), np.uint8)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_bad_picture_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    for bad in (
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match="expected a picture"):
            save_png(path, bad)
    with pytest.raises(ValueError, match="holds NaN"):
        save_png(path, np.full((4, 4), np.nan))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("save", [save_png, lambda path, picture: save_gif(path, [picture])])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def half(_: Image.Image, file: Any, **options: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(f"no space for {options}")

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="no space"):
        save(path, images(4, 4))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_gif_plays_the_frames(tmp_path: Path) -> None:
    from PIL import Image

    frames = [np.full((1, 1, 8, 8), level, np.float32) for level in (-1.0, 0.0, 1.0)]
    save_gif(tmp_path / "a.gif", frames, seconds=0.25)
    with Image.open(tmp_path / "a.gif") as file:
        assert getattr(file, "n_frames", 1) == 3
        assert file.info["duration"] == 250
        assert file.info["loop"] == 0
        for index, level in enumerate((0, 128, 255)):
            file.seek(index)
            assert file.convert("L").getpixel((32, 32)) == level
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif(tmp_path / "a.gif", [])
