"""Images of normal numbers, and one number for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

SHAPE = (4, 3, 5, 6)


def images(seed: int, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def column(x: Any) -> Any:
    return np.reshape(x, (-1, 1, 1, 1))
