"""Reverse-mode differentiation: a tensor, a graph, and `op`.

An operation is one function, its *rule*, which returns a value and the function that
pulls a gradient back through it:

    @op
    def exp(xp, x, /):
        y = xp.exp(x)
        return y, lambda dy: (dy * y,)

What the pullback closes over is what backpropagation remembers; there is no other store.

Operations take arrays of any Array API library and return the same kind. Only inside
`record()` does an operation that meets a `Parameter` (or something computed from one)
return a `Tensor`, which carries its history; arrays alone stay arrays, so sampling needs
no `no_grad`. First derivatives only: pullbacks compute with arrays.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from heapq import heappop, heappush
from typing import Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, overload

import numpy as np

from minidiff.backend import Array, Backend, backend_of, is_array
from minidiff.random import observe_draws, replay_draws

__all__ = [
    "Gradients",
    "Parameter",
    "Tensor",
    "backward",
    "checkpoint",
    "op",
    "record",
    "stop_gradient",
    "value_and_grad",
]

P = ParamSpec("P")
T = TypeVar("T")


def _operators(name: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """`x ∘ y` and its reflection `y ∘ x`, both done by `minidiff.ops.<name>`."""

    def forward(self: Tensor, other: Any) -> Any:
        return getattr(self.__array_namespace__(), name)(self, other)

    def reflected(self: Tensor, other: Any) -> Any:
        return getattr(self.__array_namespace__(), name)(other, self)

    return forward, reflected


class Tensor:
    """An array with a history.

    It has the attributes and operators of an Array API array and no methods of its own:
    everything else is a function in `minidiff.ops`, which is also its array namespace.

    Attributes
    ----------
    data : array
        The plain array.
    """

    __slots__ = ("__weakref__", "data", "node")
    __array_ufunc__ = None  # NumPy arrays on the left of an operator yield to the right operand

    def __init__(self, data: Array, node: Node | None = None) -> None:
        self.data = data
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.data.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> Any:
        """Element type, an object of the array's own library."""
        return self.data.dtype

    @property
    def device(self) -> Any:
        """Device, an object of the array's own library."""
        return self.data.device

    @property
    def mT(self) -> Any:
        """The last two axes exchanged."""
        return self.__array_namespace__().matrix_transpose(self)

    def __repr__(self) -> str:
        backend = backend_of(self.data)
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, device={backend.device!r})"

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The functions that take tensors, `minidiff.ops`: the one import that points up."""
        from minidiff import ops

        return ops

    __add__, __radd__ = _operators("add")
    __sub__, __rsub__ = _operators("subtract")
    __mul__, __rmul__ = _operators("multiply")
    __truediv__, __rtruediv__ = _operators("divide")
    __pow__, __rpow__ = _operators("pow")
    __matmul__, __rmatmul__ = _operators("matmul")
    __lt__, __gt__ = _operators("less")
    __le__, __ge__ = _operators("less_equal")
    __eq__ = _operators("equal")[0]  # element by element, as the standard says
    __ne__ = _operators("not_equal")[0]
    __hash__ = object.__hash__

    def __neg__(self) -> Any:
        return self.__array_namespace__().negative(self)

    def __abs__(self) -> Any:
        return self.__array_namespace__().abs(self)

    def __getitem__(self, key: Any) -> Any:
        return self.__array_namespace__().getitem(self, key)

    def __len__(self) -> int:
        return self.shape[0]

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)


class Parameter(Tensor):
    """A variable: an array that is trained. A plain array is a constant.

    Parameters
    ----------
    data : array
        Its value, which may be assigned at any time outside `record()`.
    """

    __slots__ = ()

    def __init__(self, data: Array) -> None:
        super().__init__(data, Node(None, None))


class _HasParameters(Protocol):
    def parameters(self) -> dict[str, Parameter]: ...


Parameters: TypeAlias = _HasParameters | Mapping[str, Parameter]
Pull: TypeAlias = Callable[[Array], Iterable[tuple["Node", Array]]]


class Node:
    """A recorded value: when it was made, and how its gradient flows to what it was made from.

    A leaf has no `pull`. Numbers grow with time, so going down in `number` visits every
    value after everything that was computed from it.
    """

    __slots__ = ("number", "pull", "recording")
    numbers = itertools.count()

    def __init__(self, pull: Pull | None, recording: _Recording | None) -> None:
        self.number = next(Node.numbers)
        self.pull = pull
        self.recording = recording


class _Recording:
    """Which parameters are variables: all of them, or those that were named."""

    __slots__ = ("_leaves", "names")

    def __init__(self, parameters: Parameters | None) -> None:
        self.names: dict[str, Parameter] = {} if parameters is None else _named(parameters)
        self._leaves = None if parameters is None else {p.node for p in self.names.values()}

    def node(self, x: Any) -> Node | None:
        """Where the gradient of `x` goes; None if it is a constant."""
        if not isinstance(x, Tensor):
            return None
        node = x.node
        frozen = self._leaves is not None and isinstance(x, Parameter) and node not in self._leaves
        return None if frozen else node


_recording: ContextVar[_Recording | None] = ContextVar("minidiff_recording", default=None)


def _named(parameters: Parameters) -> dict[str, Parameter]:
    return dict(parameters if isinstance(parameters, Mapping) else parameters.parameters())


@contextmanager
def _recording_as(recording: _Recording | None) -> Iterator[None]:
    token = _recording.set(recording)
    try:
        yield
    finally:
        _recording.reset(token)


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
    if _recording.get() is not None:
        raise RuntimeError("record() cannot run inside record(): minidiff has first derivatives only")
    with _recording_as(_Recording(parameters)):
        yield


@overload
def op(rule: Callable[Concatenate[Any, P], Any], /) -> Callable[P, Any]: ...
@overload
def op(
    *, check: Callable[..., object]
) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]: ...


def op(rule: Any = None, /, *, check: Callable[..., object] | None = None) -> Any:
    """Turn a rule on arrays into an operation on arrays and tensors.

    Parameters
    ----------
    rule : callable
        `rule(xp, *arrays, **options) -> (array, vjp)`. Positional parameters are arrays,
        Python numbers or None; keyword-only parameters are options. `vjp(dy)` returns the
        gradients of the leading positional arguments: each an array, None, or a function
        of no arguments that is called only if that gradient is wanted. A rule with
        `*arrays` makes an operation that takes one sequence. A gradient is converted to the
        dtype of its array, so a rule may compute it in a wider one.
    check : callable, optional
        `check(*arrays, **options)` raises if they do not fit together.

    Notes
    -----
    A backend may hold its own rule under the same name. It is tried first and may return
    NotImplemented for what it does not serve; then this generic rule runs. Either one
    gets checked arguments, and every option, so that the defaults stand in one place.
    """
    if rule is None:
        return functools.partial(op, check=check)
    name = rule.__name__
    parameters = list(inspect.signature(rule).parameters.values())[1:]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    positional_only = sum(p.kind is p.POSITIONAL_ONLY for p in parameters)
    defaults = {
        p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }

    @functools.wraps(rule)
    def operation(*inputs: Any, **options: Any) -> Any:
        if variadic:
            inputs = tuple(*inputs)
        for p in named[max(0, len(inputs) - positional_only) :]:
            if p.name not in options and p.default is p.empty:
                break  # the rule's own TypeError names what is missing
            inputs = (*inputs, options.pop(p.name, p.default))
        options = {**defaults, **options}
        arrays = [_plain(x) for x in inputs]
        backend = _common_backend(name, arrays)
        try:
            y, vjp = _run(backend, name, rule, check, arrays, options)
        except Exception as error:
            error.add_note(f"in minidiff.ops.{name}({', '.join(map(_describe, arrays))})")
            raise
        if not isinstance(y, backend.array_type):
            y = backend.xp.asarray(y)  # NumPy reduces to scalars, not to arrays of shape ()
        recording = _recording.get()
        if recording is None:
            return y
        parents = [recording.node(x) for x in inputs]
        if not any(parents):
            return y
        dtypes = [getattr(x, "dtype", None) for x in arrays]
        return Tensor(y, Node(functools.partial(_pull, backend.xp, parents, dtypes, vjp), recording))

    operation.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    operation.rule = rule  # type: ignore[attr-defined]
    return operation


def _run(
    backend: Backend,
    name: str,
    rule: Callable[..., Any],
    check: Callable[..., object] | None,
    arrays: list[Any],
    options: dict[str, Any],
) -> Any:
    """What the backend's own rule returns or, if it has none that serves, the generic rule."""
    for key, value in options.items():
        if isinstance(value, Tensor):
            raise TypeError(f"{name}: {key} has no gradient; pass stop_gradient({key}), a plain array")
    if check is not None:
        check(*arrays, **options)
    kernel = backend.kernels.get(name)
    result = kernel(backend.xp, *arrays, **options) if kernel else NotImplemented
    return rule(backend.xp, *arrays, **options) if result is NotImplemented else result


def _plain(x: Any) -> Any:
    """The array inside a tensor; a Python number for a NumPy scalar, which would promote float32."""
    if isinstance(x, Tensor):
        return x.data
    return x.item() if isinstance(x, np.generic) else x


def _common_backend(name: str, arrays: list[Any]) -> Backend:
    found = None
    for x in arrays:
        if is_array(x):
            backend = backend_of(x)
            if found is not None and found is not backend:
                raise TypeError(
                    f"{name}: arrays of two libraries or devices, {found.device!r} and {backend.device!r} "
                    f"({', '.join(map(_describe, arrays))}); move one, for instance with module.to({backend.device!r})"
                )
            found = backend
    if found is None:
        raise TypeError(f"{name}: expected at least one array, got ({', '.join(map(_describe, arrays))})")
    return found


def _describe(x: Any) -> str:
    if is_array(x):
        return f"{str(x.dtype).rpartition('.')[2]} array of shape {tuple(x.shape)}"
    return repr(x)


def _pull(
    xp: Any, parents: list[Node | None], dtypes: list[Any], vjp: Callable[[Array], Any], dy: Array
) -> Iterator[tuple[Node, Array]]:
    for parent, dtype, grad in zip(parents, dtypes, vjp(dy), strict=False):  # trailing ones have no gradient
        if parent is not None and grad is not None:
            dx = grad() if callable(grad) else grad
            yield parent, dx if dx.dtype == dtype else xp.astype(dx, dtype)


def _consumed(dy: Array) -> Iterator[tuple[Node, Array]]:
    raise RuntimeError(
        "this history was already used by backward(), which frees it; record the computation again"
    )


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
                arrived[parent] = arrived[parent] + grad
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
    if loss.shape != ():
        raise ValueError(f"backward: only a scalar can be differentiated, the loss has shape {loss.shape}")
    names = loss.node.recording.names if loss.node.recording else {}
    with _recording_as(None):
        return Gradients(_flow(loss.node, backend_of(loss.data).xp.ones_like(loss.data)), names)


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
        array of each parameter's shape under its name.

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
        grads = backward(loss) if isinstance(loss, Tensor) else Gradients({}, {})
        return stop_gradient(loss), {name: grads.wrt(p) for name, p in _named(parameters).items()}

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
        recording = _recording.get()
        if recording is None:
            return fn(*args, **kwargs)
        with _recording_as(None), observe_draws() as draws:
            y = stop_gradient(fn(*args, **kwargs))
        backend_of(y)  # raises unless it is one array

        def pull(dy: Array) -> Iterator[tuple[Node, Array]]:
            start = next(Node.numbers)
            with replay_draws(draws), _recording_as(recording):
                node = recording.node(fn(*args, **kwargs))
            if node is not None:
                yield from _flow(node, dy, since=start).items()

        return Tensor(y, Node(pull, recording))

    return _named_after(fn, wrapped)


def stop_gradient(x: Any) -> Array:
    """The same array as a constant."""
    return x.data if isinstance(x, Tensor) else x
