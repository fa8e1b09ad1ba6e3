"""Arrays of the emulated device behave as those of CuPy do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import simt
from tests.simt import namespace as xp


def test_arrays_of_the_device_do_not_mix_with_the_hosts() -> None:
    backend = simt.backend()
    device, host = backend.from_numpy(np.ones((2, 3), np.float32)), np.ones((2, 3), np.float32)
    operations: list[Callable[[], Any]] = [
        lambda: device + host,
        lambda: host * device,
        lambda: xp.add(device, host),
        lambda: xp.concat([device, host]),
        lambda: xp.where(device > 0, device, host),
        lambda: device.__setitem__(..., host),
        lambda: device[host > 0],
        lambda: np.add(device, 1, out=host),
    ]
    for operation in operations:
        with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
            operation()


def test_what_comes_out_is_an_array_of_the_device() -> None:
    x = simt.backend().from_numpy(np.ones((2, 3), np.float32))
    made = [
        x + 1, 2 * x, x.sum(), x[0, 0], x[:, 1:], x.T, xp.sum(x), xp.mean(x, axis=0), xp.reshape(x, (3, 2)), -x,
        xp.zeros(3), xp.empty((2, 2)), xp.asarray([1, 2]), xp.astype(x, xp.bfloat16), x.astype(np.float16),
        xp.matmul(x, x.T), x @ x.T, xp.broadcast_to(x, (4, 2, 3)), x.mean(axis=1), xp.linalg.vecdot(x, x),
        *xp.meshgrid(x[0], x[0]), np.exp(x), x[x > 0], xp.var(x, axis=0), x.max(), xp.arange(3),
    ]  # fmt: skip
    assert [type(y) for y in made] == [simt.SimtArray] * len(made)
    x += 1
    assert float(x[0, 0]) == 2
    assert "2." in repr(x)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "uint8"])
def test_a_new_array_is_poisoned(dtype: str) -> None:
    for x in (xp.empty((2, 3), dtype=getattr(xp, dtype)), xp.empty((), dtype=getattr(xp, dtype))):
        assert set(x.view(np.ndarray).tobytes()) == {255}
