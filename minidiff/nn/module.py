"""A module is an object whose attributes are parameters, modules, or lists of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from minidiff.autodiff import Parameter
from minidiff.backend import Array, Backend, backend_of, get_backend
from minidiff.ops.support import find_dtype

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

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over arrays of any library, in the device and dtype of the parameters.

        Raises
        ------
        ValueError
            If names are missing or unknown, or shapes differ; nothing is changed then.
        """
        parameters = self.parameters()
        problems = [f"missing {name} {p.shape}" for name, p in parameters.items() if name not in state]
        problems += [
            f"unknown {name} {tuple(a.shape)}" for name, a in state.items() if name not in parameters
        ]
        problems += [
            f"{name} has shape {tuple(state[name].shape)}, expected {p.shape}"
            for name, p in parameters.items()
            if name in state and tuple(state[name].shape) != p.shape
        ]
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


def _moved(array: Array, backend: Backend, dtype: Any) -> Array:
    source = backend_of(array)
    if source is not backend:
        array = backend.from_numpy(source.to_numpy(array))
    return backend.xp.astype(array, find_dtype(backend.xp, dtype))


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What a module or a list holds, under the names that stand in dotted paths."""
    if isinstance(value, Module):
        yield from vars(value).items()
    elif isinstance(value, list | tuple):
        yield from ((str(index), child) for index, child in enumerate(value))


def _walk(value: Any, path: str) -> Iterator[tuple[str, Parameter]]:
    if isinstance(value, Parameter):
        yield path, value
    for name, child in _children(value):
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
