"""The namespace of the CUDA backend, over one that falls short of the standard where CuPy 14 does."""

from __future__ import annotations

import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import numpy as host

from minidiff_cupy.namespace import namespace

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def widening(name: str) -> Any:
    """A function that makes float32 of bfloat16, as CuPy 14.2 does."""

    def function(*arguments: Any, **options: Any) -> Any:
        y = getattr(host, name)(*arguments, **options)
        return y.astype(np.float32) if y.dtype == BFLOAT16 else y

    return function


def clip(x: Any, min: Any, max: Any) -> Any:
    assert x.dtype.kind in "iu", "array_api_compat's clip of floating numbers waits for the GPU"
    return host.clip(x, min, max)


@pytest.fixture
def xp() -> Any:
    made = types.ModuleType("array_api_compat.cupy")
    own = {name: widening(name) for name in ("maximum", "minimum", "round", "tril", "triu", "where")}
    vars(made).update({**vars(host), **own, "clip": clip})
    return namespace(made)


X = np.asarray([[1.25, -2.5], [3.0, 0.5]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes_stay(xp: Any, dtype: str) -> None:
    x = X.astype(dtype)
    for y, expected in (
        (xp.where(x > 0, x, x), X),
        (xp.where(x > 0, x, 0.0), np.where(X > 0, X, 0)),
        (xp.round(x), np.round(X)),
        (xp.tril(x), np.tril(X)),
        (xp.triu(x, k=1), np.triu(X, 1)),
    ):
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected.astype(dtype))


def test_with_wider_numbers_the_result_is_wider(xp: Any) -> None:
    x = X.astype(BFLOAT16)
    assert xp.where(x > 0, x, X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("limits", [(-1.0, 2.0), (None, 2.0), (-1.0, None), (None, None), (2.0, -1.0)])
def test_clip_selects_without_masks(xp: Any, dtype: str, limits: tuple[Any, Any]) -> None:
    x = X.astype(dtype)
    y = xp.clip(x, *limits)
    expected = X if limits == (None, None) else np.clip(X, *limits)
    assert y.dtype == dtype
    assert y is not x
    np.testing.assert_array_equal(y, expected.astype(dtype))


def test_clip_with_arrays(xp: Any) -> None:
    x = X.astype(np.float32)
    low, high = np.asarray([0.0, -1.0]), np.asarray([[1.0], [np.nan]])
    np.testing.assert_array_equal(xp.clip(x, low, high), [[1.0, -1.0], [np.nan, np.nan]])
    assert xp.clip(x, min=low, max=high).dtype == np.float32


def test_clip_of_integers_beyond_their_dtype(xp: Any) -> None:
    x = np.asarray([-100, 100], dtype=np.int8)
    np.testing.assert_array_equal(xp.clip(x, -1000, 5), [-100, 5])
