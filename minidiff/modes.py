"""How a stretch of code computes: fast or exactly, and with weights that stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from minidiff.backend import Array

__all__ = ["inference", "is_exact", "precision", "prepared"]


class _Prepared:
    """Weights in the forms that kernels compute with, each beside the weight it was made from, which it keeps alive."""

    def __init__(self, limit: int) -> None:
        self.room = limit
        self.forms: dict[tuple[int, str], tuple[Array, Array]] = {}


_exact: ContextVar[bool] = ContextVar("minidiff_exact", default=False)
_prepared: ContextVar[_Prepared | None] = ContextVar("minidiff_prepared", default=None)


@contextmanager
def precision(mode: Literal["fast", "exact"]) -> Iterator[None]:
    """Choose how float32 products are computed inside this context, forward and backward.

    Parameters
    ----------
    mode : str
        "fast", the default, lets kernels lose a digit or so of float32's seven where that is faster: 3x3
        convolutions on the CPU by Winograd's algorithm. "exact" rounds as a plain sum of float32 products does.

    Raises
    ------
    ValueError
        If `mode` is neither.

    Examples
    --------
    >>> import numpy as np
    >>> import minidiff
    >>> from minidiff import ops
    >>> with minidiff.precision("exact"):
    ...     y = ops.conv2d(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)))
    """
    if mode not in ("fast", "exact"):
        raise ValueError(f"precision: expected 'fast' or 'exact', got {mode!r}")
    token = _exact.set(mode == "exact")
    try:
        yield
    finally:
        _exact.reset(token)


def is_exact() -> bool:
    """Whether `precision("exact")` holds here; for kernels."""
    return _exact.get()


@contextmanager
def inference(*, weight_bytes: int = 1 << 30) -> Iterator[None]:
    """Promise that no array of weights is written to inside this context, so that kernels prepare each only once.

    Assigning another array to `Parameter.data` is no writing. Drawing images (`minidiff.diffusion.sample`) does this by
    itself; do it around your own loops over a network. Inside another such context it changes nothing.

    Parameters
    ----------
    weight_bytes : int
        How much memory prepared weights may take; 0 keeps none. A 3x3 convolution takes four times its weights'
        on the CPU. When there is no room left, weights are prepared at every use, as they are outside.

    Raises
    ------
    ValueError
        If `weight_bytes` is negative.

    Examples
    --------
    >>> import minidiff
    >>> from minidiff.models import UNet
    >>> model, x = UNet(3, 16, 3), minidiff.Generator(0).normal((1, 3, 32, 32))
    >>> with minidiff.inference():
    ...     for t in (999, 500, 0):
    ...         noise = model(x, t)
    """
    if weight_bytes < 0:
        raise ValueError(f"inference: weight_bytes must be 0 or more, got {weight_bytes}")
    token = _prepared.set(_prepared.get() or _Prepared(weight_bytes))
    try:
        yield
    finally:
        _prepared.reset(token)


def prepared(weight: Array, form: str, make: Callable[[Array], Array]) -> Array:
    """`make(weight)`, made once inside `inference()`; for kernels. `form` names what `make` makes."""
    store = _prepared.get()
    if store is None:
        return make(weight)
    held = store.forms.get((id(weight), form))
    if held is None:
        held = weight, make(weight)
        if held[1].nbytes <= store.room:
            store.room -= held[1].nbytes
            store.forms[id(weight), form] = held
    return held[1]
