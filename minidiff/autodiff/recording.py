"""What is remembered: the recording under way, and which parameters are variables in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from minidiff.autodiff.tensor import Node, Parameter, Parameters, Tensor

__all__ = ["Recording", "current", "is_recording", "named", "record", "recording_as"]


class Recording:
    """Which parameters are variables: all of them, or those that were named."""

    __slots__ = ("_leaves", "names")

    def __init__(self, parameters: Parameters | None) -> None:
        self.names: dict[str, Parameter] = {} if parameters is None else named(parameters)
        self._leaves = None if parameters is None else {p.node for p in self.names.values()}

    def node(self, x: Any) -> Node | None:
        """Where the gradient of `x` goes; None if it is a constant."""
        if not isinstance(x, Tensor):
            return None
        node = x.node
        frozen = self._leaves is not None and isinstance(x, Parameter) and node not in self._leaves
        return None if frozen else node


current: ContextVar[Recording | None] = ContextVar("minidiff_recording", default=None)


def is_recording() -> bool:
    """Whether what is computed here is remembered for `backward`."""
    return current.get() is not None


def named(parameters: Parameters, owner: str = "record") -> dict[str, Parameter]:
    """The parameters of a module or mapping by name, or an error of `owner` that says what else was given."""
    if not isinstance(parameters, Mapping) and not hasattr(parameters, "parameters"):
        raise TypeError(
            f"{owner}: expected a module or a mapping of names to Parameters, got {type(parameters).__name__}"
        )
    found = dict(parameters if isinstance(parameters, Mapping) else parameters.parameters())
    for name, p in found.items():
        if not isinstance(p, Parameter):
            raise TypeError(f"{owner}: {name!r} is a {type(p).__name__}, not a Parameter")
    return found


@contextmanager
def recording_as(recording: Recording | None) -> Iterator[None]:
    """Remember for `recording`, or not at all, while this context lasts."""
    token = current.set(recording)
    try:
        yield
    finally:
        current.reset(token)


@contextmanager
def record(parameters: Parameters | None = None) -> Iterator[None]:
    """Remember what is computed from parameters, for `backward`.

    Parameters
    ----------
    parameters : Module or mapping of str to Parameter, optional
        The variables; every other parameter is a constant meanwhile. By default every
        parameter is a variable.

    Raises
    ------
    RuntimeError
        If a recording is already under way: only first derivatives exist.
    TypeError
        If `parameters` are neither a module nor a mapping to Parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import Parameter, backward, ops, record
    >>> w = Parameter(np.asarray([1.0, 2.0]))
    >>> with record():
    ...     loss = ops.sum(w * w)
    >>> backward(loss).wrt(w)
    array([2., 4.])
    """
    if current.get() is not None:
        raise RuntimeError("record() cannot run inside record(): minidiff has first derivatives only")
    with recording_as(Recording(parameters)):
        yield
