"""NumPy on the CPU, with images channels-last in memory."""

from __future__ import annotations

import numpy as np
from array_api_compat import numpy as xp

from minidiff.backend import Backend

__all__ = ["backend"]


def backend() -> Backend:
    """The CPU backend."""
    return Backend(
        device="cpu", xp=xp, array_type=np.ndarray, from_numpy=np.asarray, to_numpy=np.asarray, kernels={}
    )
