"""Arrays that are kept beside parameters: made, copied, and loaded from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import array_api_compat

from minidiff.autodiff import Parameter, Parameters
from minidiff.autodiff.recording import named
from minidiff.backend import Array, backend_of
from minidiff.ops.support import dtype_name, widen

__all__ = ["copied", "loaded", "named_parameters", "wide_zeros"]


def named_parameters(owner: str, parameters: Parameters) -> dict[str, Parameter]:
    """The parameters of a module or mapping by name, one at least, or an error that says what else was given."""
    found = named(parameters, owner)
    if not found:
        raise ValueError(f"{owner}: there are no parameters")
    return found


def wide_zeros(x: Array) -> Array:
    """Zeros of the shape of `x` beside it, float32 or wider."""
    xp = backend_of(x).xp
    dtype = xp.float64 if dtype_name(x.dtype) == "float64" else xp.float32
    return xp.zeros(tuple(x.shape), dtype=dtype, device=array_api_compat.device(x))


def copied(x: Array) -> Array:
    """An array that nobody else holds."""
    return backend_of(x).xp.asarray(x, copy=True)


def wide_copy(x: Array) -> Array:
    """A copy in float32 or wider."""
    wide = widen(backend_of(x).xp, x)
    return copied(x) if wide is x else wide


def loaded(owner: str, state: Mapping[str, Array], like: Mapping[str, Array]) -> dict[str, Array]:
    """Copies of saved arrays, each of the shape of its namesake in `like` and beside it, float32 or wider.

    Raises
    ------
    ValueError
        If names or shapes differ.
    """
    missing, unknown = sorted(like.keys() - state.keys()), sorted(state.keys() - like.keys())
    if missing or unknown:
        raise ValueError(
            f"{owner}: the saved state lacks {_some(missing)} and has, unexpectedly, {_some(unknown)}"
        )
    for name, x in like.items():
        if tuple(state[name].shape) != tuple(x.shape):
            raise ValueError(
                f"{owner}: the saved {name!r} has shape {tuple(state[name].shape)}, expected {tuple(x.shape)}"
            )
    return {name: _moved(state[name], x) for name, x in like.items()}


def _moved(x: Array, like: Array) -> Array:
    target, source = backend_of(like), backend_of(x)
    if source is not target:
        x = target.from_numpy(source.to_numpy(x))
    zeros = wide_zeros(like)
    return target.xp.astype(x, zeros.dtype, copy=True)


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
