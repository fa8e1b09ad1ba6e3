"""Whether a backend computes right: a few operations and their gradients, beside the generic rules in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from array_api_compat import numpy as host

from minidiff import ops
from minidiff.autodiff import Parameter, backward, record
from minidiff.backend import Backend, BackendUnavailable
from minidiff.doctor.findings import Questions
from minidiff.modes import precision

__all__ = ["questions"]

# Products on a GPU keep three of float32's seven digits unless they must be exact.
TOLERANCE: dict[Literal["fast", "exact"], float] = {"fast": 1e-2, "exact": 2e-5}

Shapes = list[tuple[int, ...]]
CASES: dict[str, tuple[Callable[..., Any], Shapes, dict[str, Any]]] = {
    "convolution": (ops.conv2d, [(2, 32, 16, 16), (32, 32, 3, 3), (32,)], {"padding": 1}),
    "group norm": (ops.group_norm, [(2, 32, 8, 8), (32,), (32,)], {"groups": 8, "activation": "silu"}),
    "attention": (ops.scaled_dot_product_attention, [(2, 4, 64, 32)] * 3, {}),
}


def questions(backend: Backend) -> Questions:
    """A question for each operation, whose answer is its errors."""
    return {name: partial(_errors, backend, *case) for name, case in CASES.items()}


def _errors(backend: Backend, op: Any, shapes: Shapes, options: dict[str, Any]) -> str:
    """The largest error of result and gradients, relative to the largest number expected, in both precisions."""
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape) for shape in shapes]
    y, vjp = op.rule(host, *arrays, **options)
    dy = random.standard_normal(y.shape)
    expected = [y, *(dx() if callable(dx) else dx for dx in vjp(dy)[: len(arrays)])]
    errors = {}
    for mode, tolerance in TOLERANCE.items():
        with precision(mode):
            computed = _compute(backend, op, arrays, dy, options)
        errors[mode] = max(_error(a, e) for a, e in zip(computed, expected, strict=True))
        if not errors[mode] <= tolerance:  # NaN is no number that is small enough
            raise BackendUnavailable(
                f"{op.__name__} on {backend.device} is off by {errors[mode]:.0e}, more than {tolerance:.0e} ({mode})",
                "the device or its driver is at fault, or minidiff: please report what `minidiff doctor --json` says",
            )
    return f"error {errors['fast']:.0e}, {errors['exact']:.0e} with precision('exact')"


def _compute(backend: Backend, op: Any, arrays: list[Any], dy: Any, options: dict[str, Any]) -> list[Any]:
    """The result and the gradients of all arrays, in float32 on the backend."""
    there = [backend.from_numpy(x.astype(np.float32)) for x in (*arrays, dy)]
    parameters = {str(i): Parameter(x) for i, x in enumerate(there[:-1])}
    with record(parameters):
        y = op(*parameters.values(), **options)
        loss = ops.sum(ops.multiply(y, there[-1]))
    grads = backward(loss)
    return [backend.to_numpy(x) for x in (y.data, *(grads[name] for name in parameters))]


def _error(actual: Any, expected: Any) -> float:
    return float(np.max(np.abs(actual - expected))) / max(1.0, float(np.max(np.abs(expected))))
