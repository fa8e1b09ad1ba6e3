"""Pictures and labels, on the host, as small as they came.

A training step needs a few dozen pictures as floats; the other 60,000 take a quarter of the memory as bytes.
So a `Dataset` keeps the levels that the file had and scales a batch when it is asked for one. It checks
everything once, when it is made: whoever trains on it need not ask again whether a pixel can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DataError", "Dataset"]


class DataError(ValueError):
    """Data that cannot be used; the message says which file or image, what was expected and what found."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Pictures of one size, with or without a class label each.

    Parameters
    ----------
    pixels : (N, C, H, W) NumPy array
        Either uint8 levels 0..max_value, or floats in [-1, 1].
    labels : (N,) NumPy array of integers, optional
        Classes 0..num_classes - 1; kept as int64.
    class_names : tuple of str
        One name for each class, in the order of the labels; empty without labels.
    name : str
        What messages call this data set.
    max_value : int
        The level that becomes 1.0, when `pixels` are levels; at most 255.

    Raises
    ------
    DataError
        If the arrays have other shapes or types, lengths disagree, a pixel is NaN or out of its range, or a
        label has no class.

    Examples
    --------
    >>> from minidiff.data import load_digits
    >>> images, labels = load_digits().batch(np.asarray([0, 1, 2]))
    >>> images.shape, images.dtype.name, labels.tolist()
    ((3, 1, 8, 8), 'float32', [0, 1, 2])
    """

    pixels: NDArray[Any]
    labels: NDArray[Any] | None = None
    class_names: tuple[str, ...] = ()
    name: str = "images"
    max_value: int = 255

    def __post_init__(self) -> None:
        self._check_pixels()
        if self.labels is not None:
            self._check_labels(self.labels)
            object.__setattr__(self, "labels", self.labels.astype(np.int64))
        elif self.class_names:
            raise DataError(f"{self.name}: {self.num_classes} class names, but no labels")

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        kind = f"{self.pixels.dtype} images of shape {self.image_shape}"
        return f"Dataset({self.name!r}, {len(self)} {kind}, {self.num_classes} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """How many classes there are; 0 without labels."""
        return len(self.class_names)

    def batch(self, indices: NDArray[np.integer[Any]] | slice) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Some of the pictures, ready for a model.

        Parameters
        ----------
        indices : (B,) NumPy array of integers, or slice
            Which ones; `slice(None)` means all of them.

        Returns
        -------
        images : (B, C, H, W) float32
            In [-1, 1]: a level v becomes v / (max_value / 2) - 1, so that 0 is exactly -1 and `max_value` is
            exactly 1.
        labels : (B,) int64, or None
        """
        images = self.pixels[indices].astype(np.float32)
        if self.pixels.dtype == np.uint8:
            images /= self.max_value / 2
            images -= 1
        return images, None if self.labels is None else self.labels[indices]

    def _check_pixels(self) -> None:
        pixels = self.pixels
        if not isinstance(pixels, np.ndarray):
            raise DataError(f"{self.name}: expected pixels in a NumPy array, got {type(pixels).__name__}")
        if pixels.ndim != 4 or 0 in pixels.shape:
            raise DataError(f"{self.name}: expected pixels of shape (N, C, H, W), found {pixels.shape}")
        if pixels.dtype == np.uint8:
            low, high = 0, self.max_value
        elif np.issubdtype(pixels.dtype, np.floating):
            low, high = -1, 1
        else:
            raise DataError(f"{self.name}: expected pixels of type uint8 or float, found {pixels.dtype}")
        if not 1 <= self.max_value <= 255:
            raise DataError(f"{self.name}: max_value must lie in [1, 255], got {self.max_value}")
        if not (low <= pixels.min() and pixels.max() <= high):  # false for NaN, too
            where = tuple(np.argwhere(~((pixels >= low) & (pixels <= high)))[0])
            value = "NaN" if np.isnan(pixels[where]) else f"{pixels[where]}, outside [{low}, {high}]"
            raise DataError(f"{self.name}: image {where[0]} holds {value}")

    def _check_labels(self, labels: NDArray[Any]) -> None:
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise DataError(f"{self.name}: labels must be a NumPy array of integers, of shape (N,)")
        if len(labels) != len(self):
            raise DataError(f"{self.name}: {len(self)} images, but {len(labels)} labels")
        outside = (labels < 0) | (labels >= self.num_classes)
        if outside.any():
            index = int(outside.argmax())
            raise DataError(
                f"{self.name}: image {index} has label {labels[index]}, "
                f"but there are {self.num_classes} class names"
            )


def existing_folder(path: str | Path) -> Path:
    """`path` as a Path, or a DataError if no folder is there."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    return folder
