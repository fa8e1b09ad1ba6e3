"""Train and sample diffusion models on NumPy and CuPy arrays.

Arrays go in and arrays of the same kind come out; inside `record()` what is computed from a `Parameter`
carries its history, for `backward`. Functions are in `minidiff.ops`; layers, models, diffusion processes and
optimizers are packages of their own (`minidiff.nn`, ...), imported when asked for.
"""

from typing import Any

from minidiff import ops
from minidiff.autodiff import (
    Gradients,
    Parameter,
    Tensor,
    backward,
    checkpoint,
    record,
    stop_gradient,
    value_and_grad,
)
from minidiff.backend import (
    Backend,
    BackendUnavailable,
    available_backends,
    backend_of,
    get_backend,
    register_backend,
)
from minidiff.modes import inference, precision
from minidiff.random import Generator

__all__ = [
    "Backend",
    "BackendUnavailable",
    "Generator",
    "Gradients",
    "Parameter",
    "Tensor",
    "available_backends",
    "backend_of",
    "backward",
    "checkpoint",
    "get_backend",
    "inference",
    "ops",
    "precision",
    "record",
    "register_backend",
    "stop_gradient",
    "value_and_grad",
]


def __getattr__(name: str) -> Any:
    """`__version__`, looked up in the installed package's metadata when it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("minidiff")
    raise AttributeError(f"module 'minidiff' has no attribute {name!r}")
