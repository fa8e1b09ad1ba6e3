"""One number for each image of a batch: times and labels, in any form that users give them."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidiff import ops
from minidiff.autodiff import stop_gradient
from minidiff.backend import Array, backend_of

__all__ = ["per_image"]


def per_image(network: str, x: Any, values: Any, name: str) -> Array:
    """One number for all images, or a host list, or an array (N,) -> an array (N,) beside x.

    Raises
    ------
    ValueError
        If there are not as many numbers as images.
    """
    values = stop_gradient(values)
    if isinstance(values, np.generic) or not hasattr(values, "shape"):
        values = np.asarray(values)
    if not values.shape:
        values = ops.broadcast_to(values, tuple(x.shape[:1]))
    if isinstance(values, np.ndarray):
        values = backend_of(stop_gradient(x)).from_numpy(values)
    if tuple(values.shape) != (x.shape[0],):
        raise ValueError(
            f"{network}: expected {x.shape[0]} {name}, one per image, got shape {tuple(values.shape)}"
        )
    return values
