"""One fixture: every test that takes `backend` runs on each array library that is installed here.

`MINIDIFF_TEST_DEVICES=cuda` (a comma-separated list) chooses other devices than the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend, BackendUnavailable, get_backend, register_backend


def _frozen(host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that no rule may write to."""
    copy = host.copy()
    copy.flags.writeable = False
    return copy


def _strict() -> Backend:
    import array_api_strict

    return Backend(
        device="strict",
        xp=array_api_strict,
        array_type=type(array_api_strict.zeros(())),
        from_numpy=lambda host: array_api_strict.asarray(_frozen(host)),
        to_numpy=lambda x: np.array(x._array),
    )


def _torch() -> Backend:
    import torch
    from array_api_compat import torch as xp

    return Backend(
        device="torch",
        xp=xp,
        array_type=torch.Tensor,
        from_numpy=lambda host: torch.tensor(np.ascontiguousarray(host)),
        to_numpy=lambda x: x.numpy(),
    )


MAKERS: dict[str, Callable[[], Backend]] = {"strict": _strict, "torch": _torch}
DEVICES = os.environ.get("MINIDIFF_TEST_DEVICES", "cpu,strict,torch").split(",")


def load(device: str) -> Backend:
    """The backend called `device`, or a skip that says what is missing."""
    try:
        if device in MAKERS:
            register_backend(MAKERS[device]())
        return get_backend(device)
    except (ImportError, BackendUnavailable) as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=DEVICES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """A backend that works here."""
    return load(request.param)
