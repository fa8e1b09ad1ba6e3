"""Which kind of data is this? A user types one name or folder, and need not know the format's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minidiff.data.cifar import FILES, load_cifar10
from minidiff.data.dataset import DataError, Dataset, existing_folder
from minidiff.data.digits import load_digits
from minidiff.data.folder import FORMATS, load_folder, pictures_in
from minidiff.data.idx import idx_names, load_idx

__all__ = ["open_dataset"]


def open_dataset(source: str | Path, size: int | None = None, channels: int = 3) -> Dataset:
    """Open the training data that `source` names.

    Parameters
    ----------
    source : str or Path
        "digits" (`load_digits`), or a folder with IDX files (`load_idx`), with the binary CIFAR-10
        (`load_cifar10`) or with pictures (`load_folder`). A folder called digits is "./digits".
    size : int, optional
        Height and width in pixels: needed for a folder of pictures, which are resized. The other sets have
        one size, and another is an error.
    channels : {3, 1}
        Whether a folder of pictures is read in colour or grey. The other sets are what they are.

    Raises
    ------
    DataError
        If the folder holds none of them, or its files are missing, truncated or foreign.
    """
    dataset = load_digits() if source == "digits" else _open_folder(existing_folder(source), size, channels)
    if size is not None and dataset.image_shape[1:] != (size, size):
        _, height, width = dataset.image_shape
        raise DataError(f"{dataset.name}: images are {height}x{width}, not {size}x{size}; leave the size out")
    return dataset


def _open_folder(folder: Path, size: int | None, channels: int) -> Dataset:
    idx = [name for kind in ("images", "labels") for name in idx_names(kind, "train")]
    cifar = [*FILES["train"], *(Path(name).stem for name in FILES["train"])]  # pickles, for their error
    if _any_in(folder, idx):
        return load_idx(folder)
    if _any_in(folder, cifar):
        return load_cifar10(folder)
    if not pictures_in(folder):
        raise DataError(
            f"{folder}: no known data set; looked for MNIST or Fashion-MNIST files ({idx[0]}[.gz], ...), "
            f"binary CIFAR-10 files ({cifar[0]}, ...) and pictures ({', '.join(FORMATS)}); or say 'digits'"
        )
    if size is None:
        raise DataError(f"{folder}: give a size in pixels, to which these pictures shall be resized")
    return load_folder(folder, size, channels)


def _any_in(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).is_file() for name in names)
