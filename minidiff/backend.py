"""Where arrays live, and which rules are faster there.

A backend is a value: an Array API namespace, two ways to cross to NumPy, and a table of
rules that replace the generic ones. `minidiff` never imports a backend; it asks for one
by device name, and installed packages answer through the entry-point group
`minidiff.backends`. Our own two backends have no other way in.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import array_api_compat
import numpy as np

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "Array",
    "Backend",
    "BackendUnavailable",
    "Rule",
    "available_backends",
    "backend_of",
    "diagnosis",
    "get_backend",
    "is_array",
    "register_backend",
]

Array: TypeAlias = Any  # an array of any library; the standard's typing protocols are not settled yet
Rule: TypeAlias = Callable[..., Any]  # (xp, *arrays, **options) -> (array, vjp), or NotImplemented


class BackendUnavailable(RuntimeError):
    """A backend is installed but cannot work here.

    Parameters
    ----------
    cause : str
        What is missing.
    fix : str
        The command or step that mends it.
    """

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix


@dataclass(frozen=True, eq=False)
class Backend:
    """One kind of device.

    Attributes
    ----------
    device : str
        What a user types after `--device`: "cpu", "cuda", "cuda:1".
    xp : module
        Array API namespace (2023.12 or later).
    array_type : type
        The array class that this backend owns.
    from_numpy, to_numpy : callable
        Copy across the host boundary. `to_numpy` waits for pending work.
    synchronize : callable
        Return when every queued kernel has finished (for timing, not for correctness).
    kernels : mapping of str to Rule
        Rules that stand in for the generic rule of the same name. Each gets arguments that
        were checked, and every option; it may return NotImplemented, and then the generic
        rule runs. `minidiff.testing.check_backend` compares the two.
    numbered : callable, optional
        `numbered(1)` is the backend of the second device of this kind.
    """

    device: str
    xp: Any
    array_type: type
    from_numpy: Callable[[np.ndarray[Any, Any]], Array]
    to_numpy: Callable[[Array], np.ndarray[Any, Any]]
    synchronize: Callable[[], None] = lambda: None
    kernels: Mapping[str, Rule] = field(default_factory=dict)
    compile: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda fn: fn
    numbered: Callable[[int], Backend] | None = None

    def __repr__(self) -> str:
        return f"Backend({self.device!r}, {self.xp.__name__}, {len(self.kernels)} kernels)"

    def __reduce__(self) -> tuple[Any, ...]:
        return get_backend, (self.device,)  # another process has a backend of this name of its own

    def __deepcopy__(self, memo: Any) -> Backend:
        return self


_registered: dict[str, Backend] = {}
_by_type: dict[type, Backend] = {}  # a cache of `backend_of`


def register_backend(backend: Backend) -> None:
    """Make `backend` answer for its device in this process, before any installed offer."""
    _registered[backend.device] = backend
    _by_type.clear()


def available_backends() -> list[str]:
    """Device names that some installed package offers (not: whose hardware works)."""
    return sorted({*_registered, *_offers()})


def get_backend(device: str | Backend) -> Backend:
    """Load the backend for `device`.

    Parameters
    ----------
    device : str or Backend
        "cpu", "cuda", "cuda:1", or the name of a third party's backend. A backend is
        returned as it is.

    Raises
    ------
    ValueError
        If no installed package offers `device`, or two packages do.
    BackendUnavailable
        If its package is installed but its library, driver or hardware is missing.
    """
    if isinstance(device, Backend):
        return device
    if device in _registered:
        return _registered[device]
    name, colon, number = device.partition(":")
    if colon:
        kind = get_backend(name)
        if kind.numbered is None or not number.isdecimal():
            raise ValueError(f"unknown device {device!r}: {name!r} devices are named {_names(kind)}")
        register_backend(kind.numbered(int(number)))
    else:
        offers = _offers()
        if name not in offers:
            raise ValueError(f"unknown device {device!r}; installed backends offer {available_backends()}")
        backend = offers[name].load()()
        if backend.device != name:
            raise ValueError(f"{offers[name].value} offers device {name!r} but made {backend!r}")
        register_backend(backend)
    return _registered[device]


def diagnosis(device: str) -> dict[str, Callable[[], str]]:
    """What can be asked about `device`, usable or not: by name, functions that look at the machine.

    The module of an offer may have `diagnose()` beside the function that makes the backend; this is what it returns.
    Each function says in a few words what is there. It warns (`warnings.warn`) with what mends it where something
    works badly, and raises BackendUnavailable where it does not work.

    Raises
    ------
    ValueError
        If two packages offer `device`.
    """
    offer = _offers().get(device.partition(":")[0])
    module: Any = importlib.import_module(offer.module) if offer else None
    return module.diagnose() if hasattr(module, "diagnose") else {}


def backend_of(array: Array) -> Backend:
    """The backend that owns `array`, found by its type.

    Arrays of a library without a registered backend get one without kernels, made from
    the namespace that array_api_compat finds for them.

    Raises
    ------
    TypeError
        If `array` is not an array of any Array API library.
    """
    kind = type(array)
    if kind not in _by_type:
        _by_type[kind] = _find(array)
    return _by_type[kind]


def is_array(x: Any) -> bool:
    """Whether `x` looks like an array, and not like a dtype: the class `np.float32` has the attributes too."""
    return hasattr(x, "dtype") and not isinstance(x, type)


def _find(array: Array) -> Backend:
    if isinstance(array, np.matrix | np.ma.MaskedArray):
        raise TypeError(
            f"expected an array, got a {type(array).__name__}, whose operators mean something else; "
            "take np.asarray(x), after x.filled(...) if some of it is masked"
        )
    owners = [b for b in _registered.values() if isinstance(array, b.array_type)]
    if owners:
        return max(owners, key=lambda b: len(b.array_type.__mro__))  # a subclass before its base
    if array_api_compat.is_numpy_array(array):
        return get_backend("cpu")
    if array_api_compat.is_cupy_array(array):
        return get_backend("cuda")
    try:
        xp = array_api_compat.array_namespace(array)
    except TypeError:
        raise TypeError(f"expected an array of an Array API library, got {type(array).__name__}") from None
    return Backend(
        device=type(array).__module__.partition(".")[0],
        xp=xp,
        array_type=type(array),
        from_numpy=lambda host: xp.asarray(host.copy()),
        to_numpy=lambda x: np.from_dlpack(x),
    )


def _names(kind: Backend) -> str:
    return f"{kind.device!r}" if kind.numbered is None else f"'{kind.device}' or '{kind.device}:0', ..."


def _offers() -> dict[str, EntryPoint]:
    """What installed packages offer: entry points, each a function without arguments that returns a Backend."""
    from importlib.metadata import entry_points  # here, as it takes a fifth of the time of `import minidiff`

    offers: dict[str, EntryPoint] = {}
    for offer in entry_points(group="minidiff.backends"):
        known = offers.setdefault(offer.name, offer)
        if known.value != offer.value:
            raise ValueError(
                f"device {offer.name!r} is offered twice, by {known.value} and by {offer.value}; "
                "uninstall one of the packages, or call register_backend with the one you want"
            )
    return offers
