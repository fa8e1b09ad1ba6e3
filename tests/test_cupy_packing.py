"""What launches pass, packed by the real CuPy, which needs no driver for that."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

RECORD = np.zeros((), np.dtype([("a", np.int32), ("b", np.float64, 2)], align=True))[()]
SCALARS = [np.int32(1), np.int64(1), np.uint64(1), np.float32(1), np.float64(1), np.bool_(True)]


@pytest.fixture
def launch() -> Any:
    """Launches nothing: CuPy packs the arguments, and only then finds that there is no device."""
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    if cupy.cuda.is_available():
        pytest.skip("there is a GPU, on which every other test launches kernels")
    from minidiff_cupy import gpu

    function = cupy.cuda.function.Function.__new__(cupy.cuda.function.Function)  # of no module
    stream = types.SimpleNamespace(ptr=0)
    return lambda argument: function((1,), (1,), (gpu._argument(argument),), 0, stream)


@pytest.mark.parametrize("argument", [None, RECORD, *SCALARS])
def test_cupy_takes_what_launches_pass(launch: Any, argument: Any) -> None:
    with pytest.raises(RuntimeError, match="cudaError"):
        launch(argument)


@pytest.mark.parametrize("argument", [np.zeros(2, np.float32), "text"])
def test_cupy_refuses_anything_else(launch: Any, argument: Any) -> None:
    with pytest.raises(TypeError):
        launch(argument)
