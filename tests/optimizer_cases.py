"""Optimizers by name, and parameters of many shapes with gradients for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minidiff import optim
from minidiff.autodiff import Parameter
from minidiff.backend import Backend

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {  # the class and its options, which are PyTorch's, too
    "sgd": ("SGD", {"lr": 0.05}),
    "sgd weight decay": ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
}
SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "scale": (), "empty": (0, 2)}


def make(name: str, parameters: Any, library: Any = optim) -> Any:
    """One of OPTIMIZERS, or its namesake in `torch.optim`."""
    kind, options = OPTIMIZERS[name]
    return getattr(library, kind)(parameters, **options)


def host_arrays(seed: int, dtype: str = "float32") -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def make_parameters(backend: Backend, dtype: str = "float32") -> dict[str, Parameter]:
    return {name: Parameter(backend.from_numpy(x)) for name, x in host_arrays(0, dtype).items()}


def gradients(backend: Backend, step: int, dtype: str = "float32") -> dict[str, Any]:
    return {name: backend.from_numpy(x) for name, x in host_arrays(100 + step, dtype).items()}


def on_host(backend: Backend, arrays: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Copies."""
    return {name: backend.to_numpy(x).copy() for name, x in arrays.items()}


def values(backend: Backend, parameters: dict[str, Parameter]) -> dict[str, np.ndarray[Any, Any]]:
    return on_host(backend, {name: p.data for name, p in parameters.items()})


def assert_equal(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def one(value: float) -> dict[str, Parameter]:
    """A parameter of one number on the CPU."""
    return {"w": Parameter(np.asarray([value]))}
