"""What tests of the NumPy backend's kernels share: a kernel held against its rule, on one lane and on three."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from array_api_compat import numpy as xp

from minidiff import ops
from minidiff_numpy import backend, lanes, layout

Array = np.ndarray[Any, Any]
KERNELS = backend().kernels
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}  # of the largest number


@pytest.fixture(params=["as it comes", "on three lanes"])
def sharing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small work is not worth a lane; the second time round all of it is done by lanes."""
    before = lanes.count()
    if request.param == "on three lanes":
        monkeypatch.setattr(lanes, "_WORTH", 0)
        lanes.set_num_threads(3)
    yield
    lanes.set_num_threads(before)


@pytest.fixture(params=["NHWC", "HWNC", "HWNC up to 48 pixels"])
def order_of_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches are NHWC; then all are HWNC, then what is small before or after."""
    if request.param != "NHWC":
        monkeypatch.setattr(layout, "_BATCH", 1)
        monkeypatch.setattr(layout, "_FEW_PIXELS", 1 << 20 if request.param == "HWNC" else 48)


def run(rule: Callable[..., Any], name: str, arrays: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a kernel or rule the way an operation does: with every option."""
    parameters = inspect.signature(getattr(ops, name)).parameters.values()
    return rule(xp, *arrays, **{p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | options)


def compare(name: str, *arrays: Any, **options: Any) -> tuple[Array, Array]:
    """Value and gradients of the kernel are those of the rule; inputs are left alone.

    Tolerances are in parts of the largest number. Returns the value and the first gradient.
    """
    for a in arrays:
        if a is not None:
            a.flags.writeable = False
    y, vjp = run(KERNELS[name], name, arrays, options)
    expected, expected_vjp = run(getattr(ops, name).rule, name, arrays, options)
    dy = laid_out(np.random.default_rng(1), expected.shape, expected.dtype)
    dy.flags.writeable = False
    pairs = [(y, expected)]
    for given, mine, other in zip(arrays, vjp(dy), expected_vjp(dy), strict=False):
        if given is not None:
            pairs.append((mine() if callable(mine) else mine, other() if callable(other) else other))
            assert pairs[-1][0].shape == given.shape
    for mine, other in pairs:
        assert mine.dtype == other.dtype == arrays[0].dtype
        bound = TOLERANCE[str(other.dtype)] * np.abs(other).max(initial=1)
        np.testing.assert_allclose(mine, other, rtol=0, atol=bound)
    return y, pairs[1][0]


def compare_images(name: str, *arrays: Any, **options: Any) -> None:
    """The same, and what comes lies in memory as it should."""
    for image in compare(name, *arrays, **options):
        assert not image.size or np.shares_memory(layout.channels_last(image), image)


def laid_out(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, order: str = "C") -> Array:
    """Normal numbers in an order of memory: as written, channels-last, or every second one of a larger array."""
    if order == "C" or len(shape) != 4:
        return rng.normal(size=shape).astype(dtype)
    n, c, h, w = shape
    if order == "NHWC":
        return rng.normal(size=(n, h, w, c)).astype(dtype).transpose(0, 3, 1, 2)
    return rng.normal(size=(n, 2 * c, h, 2 * w)).astype(dtype)[:, ::2, ::-1, 1::2]
