"""A tensor: an array with a history, and a parameter, with which histories begin."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from minidiff.backend import Array, backend_of

if TYPE_CHECKING:
    from minidiff.autodiff.recording import Recording

__all__ = ["Node", "Parameter", "Parameters", "Tensor", "stop_gradient"]


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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Refuse what NumPy would do element by element, and without a history."""
        raise TypeError(
            f"NumPy's functions do not take {self!r}: use those of minidiff.ops, or its plain array, tensor.data"
        )

    def __format__(self, spec: str) -> str:
        return format(self.data, spec) if spec else repr(self)

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
    data : array of floating numbers
        Its value, which may be assigned at any time outside `record()`.

    Raises
    ------
    TypeError
        If `data` is no array, or of integers, which no gradient can change by less than 1.
    """

    __slots__ = ()

    def __init__(self, data: Array) -> None:
        backend_of(data)  # raises for what is no array
        if isinstance(data, Tensor) or "float" not in str(data.dtype):
            what = f"{type(data).__name__} of {data.dtype}"
            raise TypeError(f"Parameter: expected a plain array of floating numbers, got {what}")
        super().__init__(data, Node(None, None))


class _HasParameters(Protocol):
    def parameters(self) -> dict[str, Parameter]: ...


Parameters: TypeAlias = _HasParameters | Mapping[str, Parameter]
Pull: TypeAlias = Callable[[Array], Iterable[tuple["Node", Array]]]


_thread = threading.local()  # what of a history is about to be dropped in each thread


class Node:
    """A recorded value: when it was made, and how its gradient flows to what it was made from.

    A leaf has no `pull`. Numbers grow with time, so going down in `number` visits every
    value after everything that was computed from it.
    """

    __slots__ = ("number", "pull", "recording")
    numbers = itertools.count()

    def __init__(self, pull: Pull | None, recording: Recording | None) -> None:
        self.number = next(Node.numbers)
        self.pull = pull
        self.recording = recording

    def __del__(self, local: threading.local = _thread) -> None:
        """Drop what this value was made from, one after the other.

        The first of a chain to die drops the rest in a loop; Python's own way, each inside
        the one before, overflows the stack on some versions where a history is long.
        """
        pull, self.pull = self.pull, None
        if pull is None:
            return
        dying: list[Pull] | None = local.__dict__.get("dying")
        if dying is not None:
            dying.append(pull)
            return
        dying = local.dying = [pull]
        del pull
        try:
            while dying:
                dying.pop()
        finally:  # Ctrl-C, too, may come here
            del local.dying


def stop_gradient(x: Any) -> Array:
    """The same array as a constant."""
    return x.data if isinstance(x, Tensor) else x
