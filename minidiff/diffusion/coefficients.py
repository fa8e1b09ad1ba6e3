"""A number for each timestep, to be looked up wherever the timesteps are.

Timesteps on the host are checked and looked up there in float64. Those of a batch in training lie beside the
images, which may be on a GPU: their numbers are taken there from a small table that is sent once, and nothing
waits for the GPU.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from minidiff.autodiff import stop_gradient
from minidiff.backend import Array, backend_of
from minidiff.ops.support import cast, dtype_name, find_dtype

__all__ = ["Coefficient", "Timesteps", "beside_images"]

Timesteps: TypeAlias = Any  # an int, a list of ints, or an array of integers, shape (N,), of any library


class Coefficient:
    """The function t -> values[t].

    Parameters
    ----------
    values : (T,) float64 NumPy array
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._values = values
        self._sent: dict[tuple[str, ...], Array] = {}  # by library, device and dtype

    def __call__(self, t: Timesteps, like: Array = None) -> Any:
        """See `NoiseSchedule.alpha`."""
        like = stop_gradient(like)
        if hasattr(t, "dtype") and type(t) is not np.ndarray and not isinstance(t, np.generic):
            values = self._on_device(t, like)
        else:
            values = self._values[self._checked(t)]
            if values.ndim == 0:
                return float(values)
            if like is not None:
                values = _send(values, like, like.dtype)
        return values if like is None else beside_images(values, like)

    def _on_device(self, t: Array, like: Array) -> Array:
        xp = backend_of(t).xp
        if not xp.isdtype(t.dtype, "integral"):
            raise TypeError(f"timesteps must be integers, got {t.dtype}")
        dtype = find_dtype(xp, "float32") if like is None else like.dtype
        key = (xp.__name__, str(array_api_compat.device(t)), dtype_name(dtype))
        if key not in self._sent:
            self._sent[key] = _send(self._values, t, dtype)
        return xp.take(self._sent[key], t, axis=0)

    def _checked(self, t: Timesteps) -> NDArray[np.integer[Any]]:
        index = np.asarray(t)
        if index.dtype.kind not in "iu":
            raise TypeError(f"timesteps must be integers, got {t!r} ({index.dtype})")
        outside = index[(index < 0) | (index >= len(self._values))]
        if outside.size:
            raise IndexError(f"timestep {outside[0]} is outside 0 to {len(self._values) - 1}")
        return index


def _send(host: NDArray[np.float64], near: Array, dtype: Any) -> Array:
    """A host array beside `near`, in `dtype`."""
    return backend_of(near).xp.asarray(host.tolist(), dtype=dtype, device=array_api_compat.device(near))


def beside_images(values: Array, images: Array) -> Array:
    """One number for each image, (N,), in the dtype of the images, as (N, 1, 1, 1)."""
    if tuple(values.shape) != tuple(images.shape[:1]):
        raise ValueError(
            f"timesteps of shape {tuple(values.shape)} for images of shape {tuple(images.shape)}: "
            f"give one number, or {images.shape[0]} of them, one per image"
        )
    xp = backend_of(values).xp
    return cast(xp, xp.reshape(values, (-1,) + (1,) * (len(images.shape) - 1)), images)
