"""`op`: from a rule on arrays to an operation on arrays and tensors, on every backend."""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, overload

import numpy as np

from minidiff.autodiff.recording import current
from minidiff.autodiff.tensor import Node, Tensor
from minidiff.backend import Array, Backend, backend_of, get_backend, is_array

__all__ = ["op"]

P = ParamSpec("P")


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
        if backend is None:
            backend, arrays = _of_scalars(name, inputs)
        try:
            y, vjp = _run(backend, name, rule, check, arrays, options)
        except Exception as error:
            error.add_note(f"in minidiff.ops.{name}({', '.join(map(_describe, arrays))})")
            raise
        if not isinstance(y, backend.array_type):
            y = backend.xp.asarray(y)  # NumPy reduces to scalars, not to arrays of shape ()
        recording = current.get()
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


def _common_backend(name: str, arrays: list[Any]) -> Backend | None:
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
    return found


def _of_scalars(name: str, inputs: Sequence[Any]) -> tuple[Backend, list[Any]]:
    """NumPy's operators make scalars of its arrays of shape (): they are arrays where there are no others."""
    arrays = [np.asarray(x) if isinstance(x, np.generic) else x for x in inputs]
    if not any(map(is_array, arrays)):
        raise TypeError(f"{name}: expected at least one array, got ({', '.join(map(_describe, arrays))})")
    return get_backend("cpu"), arrays


def _describe(x: Any) -> str:
    if is_array(x):
        return f"{str(x.dtype).rpartition('.')[2]} array of shape {tuple(x.shape)}"
    return reprlib.repr(x)  # a list may be long


def _pull(
    xp: Any, parents: list[Node | None], dtypes: list[Any], vjp: Callable[[Array], Any], dy: Array
) -> Iterator[tuple[Node, Array]]:
    for parent, dtype, grad in zip(parents, dtypes, vjp(dy), strict=False):  # trailing ones have no gradient
        if parent is not None and grad is not None:
            dx = grad() if callable(grad) else grad
            yield parent, dx if dx.dtype == dtype else xp.astype(dx, dtype)
