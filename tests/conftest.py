"""One fixture: every test that takes `backend` runs on each array library that is installed here.

`MINIDIFF_TEST_DEVICES=cuda` (a comma-separated list) chooses other devices than the default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from minidiff.backend import Backend, BackendUnavailable
from minidiff.modes import precision
from minidiff.testing import load_backend
from tests import simt

if TYPE_CHECKING:
    from tests.simt.graphs import Tape

DEVICES = os.environ.get("MINIDIFF_TEST_DEVICES", "cpu,strict,torch,simt").split(",")


def load(device: str) -> Backend:
    """The backend called `device`, or a skip that says what is missing."""
    try:
        backend = simt.backend() if device == "simt" else load_backend(device)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    if device == "torch":
        import torch

        torch.set_num_threads(1)  # for arrays this small its threads only wait for each other
    return backend


@pytest.fixture(params=DEVICES)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A backend that works here, as exact as the generic rules where it is CUDA's."""
    backend = load(request.param)
    exactly = request.param.startswith(("simt", "cuda"))  # their float32 products lose three of seven digits
    with precision("exact" if exactly else "fast"):
        yield backend


@pytest.fixture(params=simt.SCHEDULES)
def simt_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backend whose CUDA kernels run on the CPU, in each order of threads."""
    with simt.schedule(request.param):
        yield load("simt")


@pytest.fixture
def tapes() -> list[Tape]:
    """What `compiled` has captured."""
    return []


@pytest.fixture
def compiled(tapes: list[Tape]) -> Iterator[Backend]:
    """The backend "simt" with a `compile` that fills `tapes`."""
    load("simt")
    from tests.simt.graphs import compiling

    with compiling(tapes) as backend:
        yield backend
