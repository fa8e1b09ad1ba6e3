"""What tests of the NumPy backend's optimizer kernels share: small blocks, and arrays in many orders of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from minidiff_numpy import lanes, optimizer

Array = np.ndarray[Any, Any]

KERNELS = {name: getattr(optimizer, name) for name in optimizer.__all__}


@contextmanager
def on_lanes(threads: int) -> Iterator[None]:
    """So many lanes for a while."""
    before = lanes.count()
    lanes.set_num_threads(threads)
    try:
        yield
    finally:
        lanes.set_num_threads(before)


@pytest.fixture(params=[1, 3])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 16 elements, for arrays of any size, on one lane and on three."""
    monkeypatch.setattr(optimizer, "_SMALL", 0)
    monkeypatch.setattr(optimizer, "_BLOCK", 16)
    monkeypatch.setattr(optimizer, "_RUN", 4)
    monkeypatch.setattr(lanes, "_WORTH", 0)
    with on_lanes(request.param):
        yield


def laid_out(x: Array, order: str) -> Array:
    """A copy of `x` in another order of memory."""
    if order == "HWIO" and x.ndim == 4:
        return x.transpose(2, 3, 1, 0).copy().transpose(3, 2, 0, 1)
    if order == "F":
        return x.copy(order="F")
    if order == "strided" and x.ndim:
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if order == "reversed" and x.ndim:
        return x[::-1].copy()[::-1]
    return x.copy()


def drawn(shape: tuple[int, ...], count: int, dtype: str = "float32") -> list[Array]:
    """A parameter, a gradient and states, the last of which may be averages of squares."""
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.normal(size=shape), dtype) for _ in range(count)]
    return [*arrays[:-1], np.asarray(arrays[-1] ** 2)]


def read_only(x: Array) -> Array:
    x.flags.writeable = False
    return x


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def lies_like(x: Array, leader: Array) -> bool:
    """Whether `x` is without gaps in the order of the strides of `leader`, where they say one."""
    axes = sorted(range(leader.ndim), key=lambda axis: -abs(leader.strides[axis]))
    return x.transpose(axes).flags.c_contiguous
