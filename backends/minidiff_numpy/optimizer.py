"""The rules of `minidiff.optim.rules` in blocks, which are shared out to the lanes: only results have the full size.

Every number goes through the same roundings in the same order as in the generic rules, so that results are equal
bit for bit; only sums of squares are rounded otherwise. New parameters and moments lie in memory as the gradient
does, averages as the parameter does: from the second step on, everything that is read together lies alike.
Moments and averages that do are written in place, the others are copied once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.layout import Array, served
from minidiff_numpy.memory import alike, empty_like

__all__ = ["adam", "ema", "momentum", "sgd", "square_sum"]

_SMALL = 1 << 14  # elements
_BLOCK = 1 << 18  # elements; with shorter calls lanes wait for Python's lock more than they gain
_PASS = 10  # multiplications that take as long as one operation on one element
_RUN = 1 << 10  # elements, few enough that float32 is wide enough for the sum of their squares


def _gains(*arrays: Array) -> bool:
    """Whether kernels serve these arrays and are faster; small ones in C order are as well off with the rule."""
    small = arrays[0].size < _SMALL and all(x.flags.c_contiguous for x in arrays)
    return not small and served(*arrays)


def _in_blocks(update: Callable[..., object], *arrays: Array, passes: int) -> None:
    """Call `update`, which makes so many passes over an array, for blocks of arrays that lie alike and without gaps."""
    size = arrays[0].size
    flat = [x.ravel(order="K") for x in arrays]  # views
    if size <= _BLOCK:
        update(*flat)
        return
    blocks = lanes.count() * -(-size // (lanes.count() * _BLOCK))  # as many for each lane

    def block(i: int) -> None:
        update(*(x[size * i // blocks : size * (i + 1) // blocks] for x in flat))

    lanes.each(block, range(blocks), multiplications=_PASS * passes * size)


def _temporary(x: Array) -> Array:
    return lanes.scratch(0, x.shape, x.dtype)


def _decayed(g: Array, p: Array, weight_decay: float) -> Array:
    """The gradient with weight decay added, `g` itself or in a lane's buffer."""
    if not weight_decay:
        return g
    decay = np.multiply(p, weight_decay, out=_temporary(p))
    return np.add(g, decay, out=decay)


def sgd(xp: Any, p: Array, g: Array, *, lr: float, weight_decay: float, step: int) -> Any:
    """See `minidiff.optim.rules.sgd`; half precision is left to the generic rule."""
    if not _gains(p, g):
        return NotImplemented
    new = empty_like(g)

    def update(p: Array, g: Array, y: Array) -> None:
        np.multiply(_decayed(g, p, weight_decay), lr, out=y)
        np.subtract(p, y, out=y)

    _in_blocks(update, alike(p, new), alike(g, new), new, passes=3)
    return (new,)


def momentum(
    xp: Any,
    p: Array,
    g: Array,
    b: Array,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    step: int,
) -> Any:
    """See `minidiff.optim.rules.momentum`; half precision is left to the generic rule."""
    if not _gains(p, g, b):
        return NotImplemented
    new = empty_like(g)
    b = alike(b, new)

    def update(p: Array, g: Array, b: Array, y: Array) -> None:
        g = _decayed(g, p, weight_decay)
        b *= momentum
        b += g
        if nesterov:
            np.multiply(b, momentum, out=y)
            y += g
            y *= lr
        else:
            np.multiply(b, lr, out=y)
        np.subtract(p, y, out=y)

    _in_blocks(update, alike(p, new), alike(g, new), b, new, passes=5)
    return new, b


def adam(
    xp: Any,
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> Any:
    """See `minidiff.optim.rules.adam`; half precision is left to the generic rule."""
    if not _gains(p, g, m, v):
        return NotImplemented
    new = empty_like(g)
    m, v = alike(m, new), alike(v, new)
    m_scale, v_scale = 1 / (1 - beta1**step), (1 - beta2**step) ** -0.5

    def update(p: Array, g: Array, m: Array, v: Array, y: Array) -> None:
        t = np.multiply(g, 1 - beta1, out=_temporary(g))
        m *= beta1
        m += t
        np.multiply(g, g, out=t)
        t *= 1 - beta2
        v *= beta2
        v += t
        np.sqrt(v, out=t)
        t *= v_scale
        t += eps
        np.multiply(m, m_scale, out=y)
        y /= t
        if weight_decay:
            np.multiply(p, weight_decay, out=t)
            y += t
        y *= lr
        np.subtract(p, y, out=y)

    _in_blocks(update, alike(p, new), alike(g, new), m, v, new, passes=15)
    return new, m, v


def ema(xp: Any, average: Array, p: Array, *, decay: float) -> Any:
    """See `minidiff.optim.rules.ema`; averages of half precision are left to the generic rule."""
    if not _gains(average, p):
        return NotImplemented
    like = empty_like(p)  # only for its strides
    average = alike(average, like)

    def update(average: Array, p: Array) -> None:
        way = np.subtract(p, average, out=_temporary(p))
        way *= 1 - decay
        average += way

    _in_blocks(update, average, alike(p, like), passes=3)
    return (average,)


def square_sum(xp: Any, *arrays: Array) -> Any:
    """See `minidiff.optim.rules.square_sum`; half precision is left to the generic rule.

    Runs of numbers that lie side by side are added up in their own dtype, and the sums of runs in float64. The caller
    does it alone: the products are too short for BLAS to wake its threads, and lanes would wait for memory.
    """
    if not all(map(served, arrays)):
        return NotImplemented
    total = 0.0
    for x in arrays:
        flat = x.ravel(order="K")
        whole = flat.size - flat.size % _RUN
        runs, rest = flat[:whole].reshape(-1, _RUN), flat[whole:]
        total += float(np.dot(rest, rest))
        if whole:
            total += float(np.vecdot(runs, runs).sum(dtype=np.float64))
    return (np.asarray(total),)
