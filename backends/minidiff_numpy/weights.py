"""Weights in the form that a kernel computes with, made again only when the weights have changed.

Nobody tells a kernel that an array was written to. So a copy of the weights lies beside what was made from them, and
is compared at every use: reading twice what the product reads once is cheap, and wrong images are not. Weights
that are seen only once, as in a training step, are not kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array

__all__ = ["kept", "set_weight_cache"]

_BLOCK = 1 << 16  # elements that are compared at once
_COST = 20  # multiplications that take as long as comparing one element


class _Seen:
    """An array of weights, and from the second time on what was made from it."""

    def __init__(self, weight: Array) -> None:
        key = id(weight)
        self.weight = weakref.ref(weight, lambda _: _seen.pop(key, None))
        self.copy: Array | None = None
        self.forms: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.copy, *self.forms.values()) if x is not None)


_seen: dict[int, _Seen] = {}
_limit = 1 << 30


def set_weight_cache(limit: int) -> None:
    """Keep weights in the forms that kernels want, in at most `limit` bytes; 0 keeps none and frees what was kept.

    1 GiB by default. For a 3x3 convolution five times its weights are kept. When there is no room left, forms are
    made at every call, as they are in training.

    Raises
    ------
    ValueError
        If `limit` is negative.
    """
    global _limit
    if limit < 0:
        raise ValueError(f"set_weight_cache: the limit must be 0 bytes or more, got {limit}")
    _limit = limit
    _seen.clear()


def kept(weight: Array, form: str, make: Callable[[Array], Array]) -> Array:
    """`make(weight)`, or what it returned before for the same array with the same numbers in it.

    `form` names the function.
    """
    seen = _seen.get(id(weight))
    if seen is None or seen.weight() is not weight:
        if _limit:
            _seen[id(weight)] = _Seen(weight)
        return make(weight)
    if seen.copy is not None and not _same(weight, seen.copy):
        seen.copy, seen.forms = None, {}
    if form not in seen.forms:
        made = make(weight)
        growth = made.nbytes + (weight.nbytes if seen.copy is None else 0)
        if np.may_share_memory(made, weight) or sum(s.nbytes for s in list(_seen.values())) + growth > _limit:
            return made
        if seen.copy is None:
            seen.copy = weight.copy(order="K")
        seen.forms[form] = made
    return seen.forms[form]


def _same(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and memory order hold the same bits."""
    integer: Any = f"u{a.itemsize}"
    one, other = (x.ravel(order="K").view(integer) for x in (a, b))
    different: list[bool] = []

    def compare(start: int) -> None:
        part = slice(start, start + _BLOCK)
        if not different and not np.array_equal(one[part], other[part]):
            different.append(True)

    lanes.each(compare, range(0, one.size, _BLOCK), multiplications=_COST * one.size)
    return not different
