"""One fixture: every test that takes `backend` runs on each array library that is installed here.

`MINIDIFF_TEST_DEVICES=cuda` (a comma-separated list) chooses other devices than the default.
"""

from __future__ import annotations

import os

import pytest

from minidiff.backend import Backend, BackendUnavailable
from minidiff.testing import load_backend

DEVICES = os.environ.get("MINIDIFF_TEST_DEVICES", "cpu,strict,torch").split(",")


def load(device: str) -> Backend:
    """The backend called `device`, or a skip that says what is missing."""
    try:
        backend = load_backend(device)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    if device == "torch":
        import torch

        torch.set_num_threads(1)  # for arrays this small its threads only wait for each other
    return backend


@pytest.fixture(params=DEVICES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """A backend that works here."""
    return load(request.param)
