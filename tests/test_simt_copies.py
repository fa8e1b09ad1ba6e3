"""Copies of many arrays in one launch."""

from __future__ import annotations

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff_cupy.copies import copy_all


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8"])
def test_copies(simt_backend: Backend, dtype: str) -> None:
    rng = np.random.default_rng(0)
    chunk = 16384 // np.dtype(dtype).itemsize
    sizes = [1, 0, 3, 16, 17, chunk, chunk + 1, 2 * chunk - 1] + [5] * 130
    hosts = [rng.integers(0, 2, n).astype(dtype) for n in sizes]
    new = [simt_backend.from_numpy(np.full(n + 16, 7).astype(dtype)) for n in sizes]
    copy_all(
        simt_backend.xp,
        [(y[:n], simt_backend.from_numpy(x)) for y, x, n in zip(new, hosts, sizes, strict=True)],
    )
    for y, x, n in zip(new, hosts, sizes, strict=True):
        np.testing.assert_array_equal(simt_backend.to_numpy(y)[:n], x)
        assert (simt_backend.to_numpy(y)[n:] == np.asarray(7).astype(dtype)).all()


def test_copies_of_arrays_with_gaps(simt_backend: Backend) -> None:
    x = simt_backend.from_numpy(np.arange(60.0).reshape(3, 4, 5))
    for source in (x[:, ::2], x[..., 1:3], x[1:, 0, 3], x.transpose(2, 0, 1), x[::-1]):
        y = simt_backend.xp.empty(source.shape, dtype=source.dtype)
        copy_all(simt_backend.xp, [(y, source)])
        np.testing.assert_array_equal(simt_backend.to_numpy(y), simt_backend.to_numpy(source))
