"""What tests of the CUDA kernels share: a kernel held against the generic rule in float64, on the emulator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from array_api_compat import numpy as host

from minidiff import ops
from minidiff.backend import Backend

Array = np.ndarray[Any, Any]

DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}  # relative norm
LAYOUTS = ("C", "channels last", "strided")


def normal(*shape: int, dtype: str = "float32", layout: str = "C", mean: float = 0.0, seed: int = 0) -> Array:
    """Normal numbers in an order of memory: as written, channels-last, or every second one of a larger array."""
    rng = np.random.default_rng((seed, *shape))
    if layout == "strided":
        wide = rng.normal(mean, size=(*shape[:-1], 2 * shape[-1])).astype(DTYPES[dtype])
        return wide[..., ::-2]
    x = rng.normal(mean, size=shape).astype(DTYPES[dtype])
    if layout == "channels last" and len(shape) > 2:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return x


def on_device(backend: Backend, x: Any) -> Any:
    """An array with the strides of `x`, and the bytes between them; anything else as it is."""
    if not isinstance(x, np.ndarray):
        return x
    owner = x
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    there = backend.from_numpy(owner)
    if owner is x:
        return there
    start = x.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    flat = there.reshape(-1)[start // x.itemsize :]
    return np.lib.stride_tricks.as_strided(flat.view(np.ndarray), x.shape, x.strides).view(type(there))


def run(
    rule: Callable[..., Any], name: str, xp: Any, arrays: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Call a kernel or rule the way an operation does: with every option."""
    parameters = inspect.signature(getattr(ops, name)).parameters.values()
    return rule(xp, *arrays, **{p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | options)


def relative(actual: Any, expected: Any) -> float:
    """Norm of the difference, relative to that of the expected array (or to 1, where that is 0)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / (np.linalg.norm(expected) or 1.0))


def compare(
    backend: Backend,
    kernel: Callable[..., Any],
    name: str,
    *arrays: Any,
    tolerance: float | None = None,
    layout: str | None = None,
    **options: Any,
) -> list[Array]:
    """Hold the value and the gradients of a kernel against the rule `name` in float64; returns them.

    Shapes and dtypes are those of the rule, and arrays that go in stay as they are. The incoming gradient lies in
    memory as the result does; with `layout` "channels last", results of four axes have to lie like that.
    """
    dtype = next(x.dtype for x in arrays if isinstance(x, np.ndarray) and x.dtype in DTYPES.values())
    limit = TOLERANCE[dtype.name] if tolerance is None else tolerance
    given = tuple(on_device(backend, x) for x in arrays)
    exact = tuple(widened(x) for x in arrays)
    y, vjp = run(kernel, name, backend.xp, given, options)
    expected, expected_vjp = run(getattr(ops, name).rule, name, host, exact, options)
    dy = normal(*expected.shape, dtype=dtype.name, seed=1, layout=layout or "C")
    arriving = on_device(backend, dy)
    results = [("result", y, expected)]
    for i, (x, mine, other) in enumerate(zip(arrays, vjp(arriving), expected_vjp(widened(dy)), strict=False)):
        if isinstance(x, np.ndarray) and other is not None:
            results.append((f"gradient {i}", called(mine), called(other)))
            assert results[-1][1].shape == x.shape
    for what, mine, other in results:
        assert mine.dtype == dtype, what
        error = relative(backend.to_numpy(mine), other)
        assert error <= limit, f"{what} is off by {error:.1e}, above {limit:.0e}"
        if layout == "channels last" and mine.ndim == 4 and mine.shape == expected.shape:
            assert mine.transpose(0, 2, 3, 1).flags.c_contiguous, what
    for before, after in zip((*arrays, dy), (*given, arriving), strict=True):
        if isinstance(before, np.ndarray):
            np.testing.assert_array_equal(before, backend.to_numpy(after))
    return [backend.to_numpy(mine) for _, mine, _ in results]


def widened(x: Any) -> Any:
    """Floating arrays in float64."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype in DTYPES.values() else x


def called(gradient: Any) -> Any:
    """A gradient, computed if it is a thunk."""
    return gradient() if callable(gradient) else gradient
