"""Real handwritten digits, inside the package.

A first run should learn from real pictures and need no network. These are the 1,797 test images of the UCI
set "Optical Recognition of Handwritten Digits" (DIGITS_LICENSE.txt), unchanged. `digits.npz` was made by:

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    np.savez_compressed("digits.npz", pixels=pixels, labels=labels.astype(np.uint8))
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from minidiff.data.dataset import Dataset

__all__ = ["load_digits"]


def load_digits() -> Dataset:
    """The 1,797 handwritten digits of the UCI set: 8x8 pixels, 17 levels of grey, ten classes.

    Returns
    -------
    Dataset
        `pixels` (1797, 1, 8, 8): levels 0 (paper) to 16 (ink), the number of inked pixels in a 4x4 block of
        the scanned bitmap.

    References
    ----------
    E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998. https://doi.org/10.24432/C50P49 (CC BY 4.0)
    """
    with files("minidiff.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        pixels, labels = arrays["pixels"], arrays["labels"]
    return Dataset(pixels, labels, tuple("0123456789"), name="digits", max_value=16)
