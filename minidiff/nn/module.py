"""A module is an object whose attributes are parameters, modules, or lists, tuples and dicts of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from minidiff.autodiff import Parameter
from minidiff.backend import Array, Backend, backend_of, get_backend
from minidiff.ops.support import dtype_name, find_dtype

__all__ = ["Module"]


class Module:
    """Base class of everything with parameters.

    There is nothing to register and no `__init__` to call: parameters are found by
    looking at attributes. A subclass writes `__init__` and `__call__`.

    Examples
    --------
    >>> from minidiff import Generator, nn
    >>> class Affine(nn.Module):
    ...     def __init__(self, width, *, rng):
    ...         self.linear = nn.Linear(width, width, rng=rng)
    ...     def __call__(self, x):
    ...         return self.linear(x)
    >>> list(Affine(3, rng=Generator(0)).parameters())
    ['linear.weight', 'linear.bias']
    """

    __call__: Any

    def parameters(self) -> dict[str, Parameter]:
        """Every parameter once, under its dotted path, in the order of assignment."""
        first: dict[int, str] = {}
        return {path: p for path, p in _walk(self, "") if first.setdefault(id(p), path) == path}

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.size for p in self.parameters().values())

    def state_dict(self) -> dict[str, Array]:
        """The plain arrays, on the parameters' device, under PyTorch's names and in its layouts."""
        return {name: p.data for name, p in self.parameters().items()}

    def misfits(self, state: Mapping[str, Array]) -> list[str]:
        """What keeps a state from being loaded, a line for each array; nothing if it fits."""
        parameters = self.parameters()
        missing = [f"missing {name} {p.shape}" for name, p in parameters.items() if name not in state]
        unknown = [f"unknown {name} {tuple(state[name].shape)}" for name in state if name not in parameters]
        wrong = [_misfit(p, state[name], name) for name, p in parameters.items() if name in state]
        return missing + unknown + [line for line in wrong if line]

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over arrays of any library, in the device and dtype of the parameters.

        Raises
        ------
        ValueError
            If names are missing or unknown, shapes differ, or numbers are not floating; nothing is changed then.
        """
        parameters = self.parameters()
        problems = self.misfits(state)
        if problems:
            shown = "\n  ".join(problems[:20]) + (
                f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
            )
            raise ValueError(f"{type(self).__name__}: the state does not fit\n  {shown}")
        moved = {name: _moved(state[name], backend_of(p.data), p.dtype) for name, p in parameters.items()}
        for name, p in parameters.items():
            p.data = moved[name]

    def to(self, device: str | Backend) -> Self:
        """Move the parameters to another device, in place; returns the module itself."""
        backend = get_backend(device)
        for p in self.parameters().values():
            p.data = _moved(p.data, backend, p.dtype)
        return self

    def __repr__(self) -> str:
        """The tree of modules, with the shapes of their parameters."""
        return "\n".join([type(self).__name__, *_listing(self)])


def _misfit(p: Parameter, array: Array, name: str) -> str:
    """What keeps `array` from becoming a parameter's; nothing if it fits."""
    backend_of(array)  # raises TypeError for what is no array
    if tuple(array.shape) != p.shape:
        return f"{name} has shape {tuple(array.shape)}, expected {p.shape}"
    dtype = dtype_name(array.dtype)
    return "" if "float" in dtype else f"{name} is {dtype}, expected floating numbers"


def _moved(array: Array, backend: Backend, dtype: Any) -> Array:
    source = backend_of(array)
    if source is not backend:
        host = source.to_numpy(array)
        known = (
            "float32" if dtype_name(host.dtype) == "bfloat16" else host.dtype
        )  # few libraries take NumPy's
        array = backend.from_numpy(host.astype(known, copy=False))
    return backend.xp.astype(array, find_dtype(backend.xp, dtype))


_SEQUENCES = (list, tuple)
_HOLDERS = (Parameter, Module, dict, *_SEQUENCES)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What a module, a list or a dict holds, under the names that stand in dotted paths."""
    if isinstance(value, Module):
        yield from vars(value).items()
    elif isinstance(value, dict):
        yield from ((str(key), child) for key, child in value.items())
    elif isinstance(value, _SEQUENCES):
        yield from ((str(index), child) for index, child in enumerate(value))


def _walk(value: Any, path: str) -> Iterator[tuple[str, Parameter]]:
    if isinstance(value, Parameter):
        yield path, value
        return
    for name, child in _children(value):
        if isinstance(child, _HOLDERS):  # few things are
            yield from _walk(child, f"{path}.{name}" if path else name)


def _listing(value: Any) -> Iterator[str]:
    for name, child in _children(value):
        if isinstance(child, Parameter):
            lines = [str(child.shape)]
        else:
            lines = repr(child).splitlines() if isinstance(child, Module) else ["", *_listing(child)]
        if any(lines):
            yield f"  {name}: {lines[0]}".rstrip()
            yield from (f"  {line}" for line in lines[1:])
