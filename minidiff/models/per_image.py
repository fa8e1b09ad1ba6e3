"""One number for each image of a batch: times and labels, in any form that users give them."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from minidiff import ops
from minidiff.autodiff import stop_gradient
from minidiff.backend import Array, backend_of
from minidiff.ops.support import find_dtype

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
    here, count = stop_gradient(x), x.shape[0]
    if isinstance(values, np.ndarray) and values.shape:
        values = backend_of(here).from_numpy(values)
    elif isinstance(values, np.ndarray):  # filled where x is, with nothing to copy: as a graph on CUDA must
        xp = backend_of(here).xp
        dtype = find_dtype(xp, values.dtype)
        values = xp.full((count,), values.item(), dtype=dtype, device=array_api_compat.device(here))
    elif not values.shape:
        values = ops.broadcast_to(values, (count,))
    if tuple(values.shape) != (count,):
        raise ValueError(
            f"{network}: expected {count} {name}, one per image, got shape {tuple(values.shape)}"
        )
    return values
