"""Gradients against central differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minidiff.autodiff import Parameter, Parameters, backward, record, stop_gradient
from minidiff.backend import Array, Backend, get_backend
from minidiff.ops import add
from minidiff.ops.support import dtype_name
from minidiff.testing.arrays import error, is_floating, lay, require, weigh
from minidiff.testing.case import Host

__all__ = ["TOLERANCE", "check_gradient", "listed", "total", "weights_for"]

TOLERANCE = 1e-6
STEP = 1e-5  # of central differences: truncation and rounding are both near 1e-10
FULL = 12  # elements up to which every partial derivative is taken, not three random directions


def check_gradient(
    fn: Callable[..., Any],
    *arrays: Any,
    backend: str | Backend = "cpu",
    parameters: Parameters | None = None,
    tolerance: float = TOLERANCE,
) -> float:
    """Compare a gradient with central differences, in float64.

    Parameters
    ----------
    fn : callable
        `fn(*arrays)` returns an array, or a list or tuple of arrays.
    *arrays : array or anything
        NumPy arrays are brought to `backend`. Floating ones are differentiated, everything
        else is passed on as it is.
    backend : str or Backend
    parameters : Module or mapping of str to Parameter, optional
        Float64 parameters that `fn` uses; they are differentiated too.
    tolerance : float
        Relative to max(1, |derivative|).

    Returns
    -------
    float
        The largest error.

    Raises
    ------
    AssertionError
        If an error is above the tolerance, or a gradient has a wrong shape, or a parameter
        is not float64.
    """
    backend = get_backend(backend)
    inputs = [_float64_parameter(backend, a) for a in arrays]
    variables = {f"argument {i}": p for i, p in enumerate(inputs) if isinstance(p, Parameter)}
    if parameters is not None:
        variables |= parameters if isinstance(parameters, Mapping) else parameters.parameters()
    for name, parameter in variables.items():
        require(dtype_name(parameter.dtype) == "float64", f"{name} is {parameter.dtype}: use float64")
    with record(variables):
        ys = listed(fn(*inputs))
        weights = weights_for(backend, ys)
        loss = total(ys, weights)
    grads = backward(loss)
    hosts = [backend.to_numpy(w) for w in weights]

    def value() -> float:
        results = [backend.to_numpy(stop_gradient(y)) for y in listed(fn(*inputs))]
        return sum(float(np.sum(w * y)) for w, y in zip(hosts, results, strict=True))

    return max(
        (
            _check_one(backend, name, backend.to_numpy(grads[name]), parameter, value, tolerance)
            for name, parameter in variables.items()
        ),
        default=0.0,
    )


def _check_one(
    backend: Backend,
    name: str,
    gradient: Host,
    parameter: Parameter,
    value: Callable[[], float],
    tolerance: float,
) -> float:
    require(
        gradient.shape == parameter.shape,
        f"{name} has shape {parameter.shape}, its gradient {gradient.shape}",
    )
    worst = 0.0
    for direction in _directions(gradient.shape):
        along = np.sum(gradient * direction)
        numeric = np.asarray(_slope(backend, value, parameter, direction))
        off = error(along, numeric)
        require(off <= tolerance, f"{name}: derivative {along:.9g}, by central differences {numeric:.9g}")
        worst = max(worst, off)
    return worst


def _float64_parameter(backend: Backend, x: Any) -> Any:
    if isinstance(x, np.ndarray) and backend.array_type is not np.ndarray:
        x = backend.from_numpy(x)
    return Parameter(backend.xp.astype(x, backend.xp.float64)) if is_floating(backend, x) else x


def listed(y: Any) -> list[Any]:
    """One result, or several, as a list."""
    return list(y) if isinstance(y, list | tuple) else [y]


def weights_for(backend: Backend, ys: list[Any], layout: str = "contiguous") -> list[Array]:
    """A random number for each number in `ys`, of the same dtypes: the gradients that come in."""
    rng = np.random.default_rng(1)
    return [lay(backend, rng.standard_normal(tuple(y.shape)), dtype_name(y.dtype), layout) for y in ys]


def total(ys: list[Any], weights: list[Array]) -> Any:
    """The sum of all results, each times its weights."""
    first, *rest = [weigh(y, w) for y, w in zip(ys, weights, strict=True)]
    for part in rest:
        first = add(first, part)
    return first


def _directions(shape: tuple[int, ...]) -> Iterator[Host]:
    size = int(np.prod(shape, dtype=np.int64))
    rows = np.eye(size) if size <= FULL else np.random.default_rng(2).standard_normal((3, size))
    return (row.reshape(shape) for row in rows)


def _slope(backend: Backend, value: Callable[[], float], parameter: Parameter, direction: Host) -> float:
    before = parameter.data
    host = backend.to_numpy(before)
    try:
        values = []
        for step in (STEP, -STEP):
            parameter.data = backend.from_numpy(host + step * direction)
            values.append(value())
    finally:
        parameter.data = before
    return (values[0] - values[1]) / (2 * STEP)
