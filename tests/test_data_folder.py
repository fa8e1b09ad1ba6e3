"""Folders of pictures: classes, and how pictures of all sizes and kinds become arrays of one."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from minidiff.data import DataError, load_folder
from tests.data_files import levels, write_picture


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


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """A class of which the pictures lie elsewhere is one of the classes."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "pictures"
    for place in (elsewhere, folder / "cats", folder / "owls"):
        place.mkdir(parents=True)
        write_picture(place / "a.png", levels(4, 4))
    (folder / "dogs").symlink_to(elsewhere)
    (folder / "cats" / "back").symlink_to(folder)
    (folder / "owls" / "cats").symlink_to(folder / "cats")
    (folder / "owls" / "nothing.png").symlink_to(folder / "missing.png")
    dataset = load_folder(folder, 4)
    assert dataset.class_names == ("cats", "dogs", "owls")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 2, 2]


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


class Terminal(StringIO):
    """Where a person watches."""

    def isatty(self) -> bool:
        return True


def test_many_pictures_show_progress_to_people_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "a.png", levels(5, 5))

    def shown(screen: StringIO, many: int) -> str:
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setattr("minidiff.data.folder.MANY", many)
        load_folder(tmp_path, 5)
        return screen.getvalue()

    assert "1/1" in shown(Terminal(), 1)
    assert shown(Terminal(), 2) == shown(StringIO(), 1) == ""
