"""New arrays. As no argument is an array, `device` says whose library makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidiff.autodiff import stop_gradient
from minidiff.backend import Array, backend_of, get_backend, is_array
from minidiff.ops.elementwise import astype
from minidiff.ops.support import find_dtype


def _creator(name: str, doc: str) -> Callable[..., Array]:
    def create(*args: Any, dtype: Any = None, device: str = "cpu", **options: Any) -> Array:
        backend = get_backend(device)
        host = getattr(get_backend("cpu").xp, name)(
            *args, dtype=find_dtype(get_backend("cpu").xp, dtype), **options
        )
        return host if backend.device == "cpu" else backend.from_numpy(host)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = doc
    return create


arange = _creator(
    "arange", "arange(start, /, stop=None, step=1, *, dtype, device): evenly spaced numbers, stop excluded."
)
empty = _creator("empty", "empty(shape, *, dtype, device): an array whose values are not set.")
eye = _creator(
    "eye", "eye(n_rows, n_cols=None, /, *, k=0, dtype, device): ones on diagonal k, zeros elsewhere."
)
full = _creator("full", "full(shape, fill_value, *, dtype, device): one value everywhere.")
linspace = _creator(
    "linspace", "linspace(start, stop, /, num, *, dtype, device, endpoint=True): `num` numbers."
)
ones = _creator("ones", "ones(shape, *, dtype, device): ones.")
zeros = _creator("zeros", "zeros(shape, *, dtype, device): zeros.")


def asarray(obj: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
    """An array from numbers, lists, or an array.

    Without `device` an array stays where it is, and a tensor keeps its history; with it the
    result is a plain array on that device.
    """
    if is_array(obj) and device is None and dtype is None and not copy:
        return obj
    if is_array(obj) and device is None:
        return astype(obj, obj.dtype if dtype is None else dtype, copy=bool(copy))
    plain = stop_gradient(obj)
    host = backend_of(plain).to_numpy(plain) if is_array(plain) else plain
    xp = get_backend("cpu").xp
    return get_backend(device or "cpu").from_numpy(xp.asarray(host, dtype=find_dtype(xp, dtype), copy=copy))


def _creator_like(name: str, doc: str) -> Callable[..., Array]:
    def create(x: Any, /, *args: Any, dtype: Any = None) -> Array:
        plain = stop_gradient(x)
        xp = backend_of(plain).xp
        return getattr(xp, name)(plain, *args, dtype=find_dtype(xp, dtype))

    create.__name__ = create.__qualname__ = name
    create.__doc__ = doc
    return create


empty_like = _creator_like(
    "empty_like", "empty_like(x, /, *, dtype): `empty` with the shape, dtype and device of x."
)
full_like = _creator_like(
    "full_like", "full_like(x, /, fill_value, *, dtype): `full` with the shape, dtype and device of x."
)
ones_like = _creator_like(
    "ones_like", "ones_like(x, /, *, dtype): ones with the shape, dtype and device of x."
)
zeros_like = _creator_like(
    "zeros_like", "zeros_like(x, /, *, dtype): zeros with the shape, dtype and device of x."
)
