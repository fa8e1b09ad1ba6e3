"""Backends made from array libraries that minidiff does not ship one for: proof that any library will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff.backend import Array, Backend, BackendUnavailable, get_backend, register_backend

__all__ = ["MAKERS", "load_backend"]

Host = np.ndarray[Any, Any]


def _frozen(host: Host) -> Host:
    """A copy that no rule may write to."""
    copy = np.array(host, order="C")
    copy.flags.writeable = False
    return copy


def array_api_strict_backend() -> Backend:
    """The reference implementation of the standard, which has nothing that the standard does not say."""
    import array_api_strict as xp

    return Backend(
        device="strict",
        xp=xp,
        array_type=type(xp.zeros(())),
        from_numpy=lambda host: xp.asarray(_frozen(host)),
        to_numpy=lambda x: np.array(x._array),
    )


def torch_backend() -> Backend:
    """PyTorch tensors on the CPU, without PyTorch's own differentiation."""
    import torch
    from array_api_compat import torch as xp

    def to_numpy(x: Array) -> Host:
        return np.asarray(x.numpy())

    return Backend(
        device="torch",
        xp=xp,
        array_type=torch.Tensor,
        from_numpy=lambda host: torch.from_numpy(np.array(host, order="C")),
        to_numpy=to_numpy,
    )


PACKAGES = {"strict": "array-api-strict", "torch": "torch"}
MAKERS: dict[str, Callable[[], Backend]] = {"strict": array_api_strict_backend, "torch": torch_backend}


def load_backend(device: str) -> Backend:
    """The backend called `device`: an installed one, "strict" (array-api-strict) or "torch".

    Raises
    ------
    BackendUnavailable
        If its library is not installed.
    ValueError
        If there is no such backend.
    """
    if device in MAKERS:
        try:
            register_backend(MAKERS[device]())
        except ImportError as error:
            raise BackendUnavailable(
                f"{device}: {error}", f"install it with: pip install {PACKAGES[device]}"
            ) from error
    return get_backend(device)
