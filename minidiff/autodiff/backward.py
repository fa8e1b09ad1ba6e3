"""The way back: gradients flow down a history, which is freed as they go."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from heapq import heappop, heappush
from typing import Any, ParamSpec, TypeVar

from minidiff.autodiff.recording import current, named, record, recording_as
from minidiff.autodiff.tensor import Node, Parameter, Parameters, Tensor, stop_gradient
from minidiff.backend import Array, backend_of, is_array
from minidiff.random import observe_draws, replay_draws

__all__ = ["Gradients", "backward", "checkpoint", "value_and_grad"]

P = ParamSpec("P")
T = TypeVar("T")


def _consumed(dy: Array) -> Iterator[tuple[Node, Array]]:
    raise RuntimeError(
        "this history was already used by backward(), which frees it; record the computation again"
    )


def _sum(x: Array, y: Array) -> Array:
    """Return x + y, by the backend's own rule if it has one that serves."""
    backend = backend_of(x)
    add = backend.kernels.get("add")
    result = add(backend.xp, x, y) if add else NotImplemented
    return x + y if result is NotImplemented else result[0]


def _flow(end: Node, dy: Array, since: int = 0) -> dict[Node, Array]:
    """Send `dy` down from `end`; return what arrives at leaves and at nodes numbered below `since`.

    Frees history as it goes.
    """
    arrived = {end: dy}
    waiting = [(-end.number, end)] if end.pull and end.number >= since else []
    while waiting:
        node = heappop(waiting)[1]
        dy = arrived.pop(node)
        pull, node.pull = node.pull, _consumed
        assert pull is not None
        for parent, grad in pull(dy):
            if parent in arrived:
                arrived[parent] = _sum(arrived[parent], grad)
            else:
                arrived[parent] = grad
                if parent.pull and parent.number >= since:
                    heappush(waiting, (-parent.number, parent))
    return arrived


class Gradients(Mapping[str, Array]):
    """What `backward` returns: gradients by parameter, and by name where `record` was given names.

    They are to be read: one array, or a view of it, may stand for several parameters.
    """

    def __init__(self, arrived: dict[Node, Array], names: Mapping[str, Parameter]) -> None:
        self._arrived = arrived
        self._names = names

    def wrt(self, parameter: Parameter) -> Array:
        """The gradient with respect to `parameter`, of its shape; zeros if the loss does not depend on it."""
        if not isinstance(parameter, Parameter) or parameter.node is None:
            raise TypeError(f"wrt: expected a Parameter, got {parameter!r}; other gradients are not kept")
        grad = self._arrived.get(parameter.node)
        return backend_of(parameter.data).xp.zeros_like(parameter.data) if grad is None else grad

    def __getitem__(self, name: str) -> Array:
        return self.wrt(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def backward(loss: Tensor) -> Gradients:
    """Differentiate a recorded scalar.

    The history of `loss` is freed while it is walked, so it can be walked once.

    Parameters
    ----------
    loss : Tensor
        Of shape (), computed inside `record()`.

    Returns
    -------
    Gradients
        `grads.wrt(parameter)`, and `grads[name]` after `record(module)`.

    Raises
    ------
    ValueError
        If `loss` is not a scalar.
    TypeError
        If nothing was recorded for it.
    RuntimeError
        If its history was used already.
    """
    if not isinstance(loss, Tensor) or loss.node is None:
        raise TypeError(
            "backward: the loss has no history; compute it from parameters inside `with minidiff.record():`"
        )
    _check_scalar(loss)
    names = loss.node.recording.names if loss.node.recording else {}
    with recording_as(None):
        return Gradients(_flow(loss.node, backend_of(loss.data).xp.ones_like(loss.data)), names)


def _check_scalar(loss: Array) -> None:
    if tuple(loss.shape) != ():
        raise ValueError(
            f"backward: only a scalar can be differentiated, the loss has shape {tuple(loss.shape)}"
        )


def value_and_grad(
    fn: Callable[P, Any], parameters: Parameters
) -> Callable[P, tuple[Array, dict[str, Array]]]:
    """Return a function that computes `fn` and its gradient.

    Parameters
    ----------
    fn : callable
        Its result is a scalar.
    parameters : Module or mapping of str to Parameter
        What to differentiate with respect to; other parameters are constants.

    Returns
    -------
    callable
        Takes the arguments of `fn`; returns `(value, gradients)`: a plain array, and an
        array of each parameter's shape under its name, which are to be read, as `Gradients` are.
        It raises TypeError if `fn` returns no array, and ValueError if that is not of shape ().

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import Parameter, ops, value_and_grad
    >>> w = Parameter(np.asarray([1.0, 2.0]))
    >>> value, grads = value_and_grad(lambda: ops.sum(w * w), {"w": w})()
    >>> grads["w"]
    array([2., 4.])
    """

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> tuple[Array, dict[str, Array]]:
        with record(parameters):
            loss = fn(*args, **kwargs)
        if not is_array(loss):  # float(loss), a tuple, None: what they depend on is not known
            raise TypeError(
                f"value_and_grad: the function must return one array of shape (), not {type(loss).__name__}"
            )
        _check_scalar(loss)
        grads = backward(loss) if isinstance(loss, Tensor) else Gradients({}, {})
        return stop_gradient(loss), {name: grads.wrt(p) for name, p in named(parameters).items()}

    return _named_after(fn, wrapped)


def _named_after(fn: Callable[P, Any], wrapped: Callable[P, T]) -> Callable[P, T]:
    """`wrapped` with the name and signature of `fn`, unless that is an object with attributes of its own."""
    return functools.update_wrapper(wrapped, fn) if inspect.isroutine(fn) else wrapped


def checkpoint(fn: Callable[P, Any]) -> Callable[P, Any]:
    """Make `fn` forget what it computed, and compute it again when its gradient is needed [1]_.

    Memory for activations inside `fn` is traded for a second forward pass. Random
    numbers that `fn` draws are drawn again from the same counters.

    Parameters
    ----------
    fn : callable
        A module, or any function of arrays that returns one array.

    References
    ----------
    .. [1] Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost", 2016,
       arXiv:1604.06174.
    """

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        recording = current.get()
        if recording is None:
            return fn(*args, **kwargs)
        with recording_as(None), observe_draws() as draws:
            y = stop_gradient(fn(*args, **kwargs))
        backend_of(y)  # raises unless it is one array

        def pull(dy: Array) -> Iterator[tuple[Node, Array]]:
            start = next(Node.numbers)
            with replay_draws(draws), recording_as(recording):
                node = recording.node(fn(*args, **kwargs))
            if node is not None:
                yield from _flow(node, dy, since=start).items()

        return Tensor(y, Node(pull, recording))

    return _named_after(fn, wrapped)
