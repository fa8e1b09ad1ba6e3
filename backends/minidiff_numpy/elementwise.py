"""Activations and softmax of large arrays, a block at a time in the order of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.blocks import parts
from minidiff_numpy.layout import Array, served
from minidiff_numpy.memory import alike, empty_like

_LARGE = 1 << 19  # elements: with fewer, the few passes of a generic rule stay in the cache by themselves
_COST = 40  # multiplications that take as long as one element
SAFE = 20.0  # exp of a number of this size neither overflows nor vanishes beside others

# gelu(x) is x (1 + tanh(x p(x**2))) / 2 for a polynomial p, lowest coefficient first: of the approximation, and
# fitted to atanh(erf(x / sqrt(2))) / x so that the value is within 2e-7 of the exact one, which float32 cannot tell.
_GELU = {
    "tanh": (math.sqrt(2 / math.pi), 0.044715 * math.sqrt(2 / math.pi)),
    None: (
        7.97884493e-01,
        3.63339111e-02,
        -3.29545524e-05,
        -5.52780034e-05,
        3.97312163e-06,
        -1.33647391e-07,
        1.80937511e-09,
    ),
}
_SATURATED = 10.0  # |x|, from which on 1 + tanh no longer depends on p


def _by_blocks(function: Callable[..., object], *arrays: Array) -> Array:
    """What `function(*blocks, out)` writes, for dense arrays in one order of memory."""
    y = empty_like(arrays[0])
    vectors = [a.ravel(order="K") for a in (*arrays, y)]  # views

    def part(block: slice) -> None:
        function(*(v[block] for v in vectors))

    lanes.each(part, parts(y.size, least=lanes.sharing(_COST * y.size)), multiplications=_COST * y.size)
    return y


def _activation(x: Array, value: Callable[..., object], slope: Callable[..., object]) -> Any:
    """The activation whose `value(x, out)` and `slope(x, dy, out)` are given."""
    x = alike(x, empty_like(x))
    return _by_blocks(value, x), lambda dy: (_by_blocks(slope, x, alike(dy, x)),)


def silu(xp: Any, x: Any) -> Any:
    """See `minidiff.ops.silu`; small arrays and half precision are left to the generic rule."""
    return _activation(x, _silu, _silu_slope) if x.size >= _LARGE and served(x) else NotImplemented


def _silu(x: Array, y: Array) -> None:
    half = np.multiply(x, 0.5, out=lanes.scratch(0, x.shape, x.dtype))
    np.tanh(half, out=y)
    y *= half
    y += half


def _silu_slope(x: Array, dy: Array, dx: Array) -> None:
    """(1 + t) (1 + x (1 - t) / 2) / 2 for t = tanh(x / 2)."""
    half = np.multiply(x, 0.5, out=lanes.scratch(0, x.shape, x.dtype))
    np.tanh(half, out=dx)
    np.subtract(1, dx, out=dx)
    half *= dx
    half += 1
    np.subtract(2, dx, out=dx)
    dx *= half
    dx *= 0.5
    dx *= dy


def gelu(xp: Any, x: Any, *, approximate: str | None) -> Any:
    """See `minidiff.ops.gelu`.

    Half precision, small arrays in the approximate form and float64 in the exact one are left to the generic rule.
    """
    if not served(x) or (x.dtype == np.float64 if approximate is None else x.size < _LARGE):
        return NotImplemented
    p = _GELU[approximate]
    return _activation(x, partial(_gelu, p), partial(_gelu_slope, p))


def _gelu(p: tuple[float, ...], x: Array, y: Array) -> None:
    _polynomial(p, _square(x), out=y)
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= 0.5


def _gelu_slope(p: tuple[float, ...], x: Array, dy: Array, dx: Array) -> None:
    """(1 + t + (1 - t**2) x q'(x)) / 2 for t = tanh(q(x)) and q(x) = x p(x**2)."""
    square = _square(x)
    slope = lanes.scratch(1, x.shape, x.dtype)
    _polynomial(tuple((2 * i + 1) * a for i, a in enumerate(p)), square, out=slope)
    t = _polynomial(p, square, out=dx)
    t *= x
    np.tanh(t, out=t)
    slope *= x
    slope *= np.subtract(1, np.multiply(t, t, out=square), out=square)
    t += slope
    t += 1
    t *= 0.5
    t *= dy


def _square(x: Array) -> Array:
    square = np.clip(x, -_SATURATED, _SATURATED, out=lanes.scratch(0, x.shape, x.dtype))
    return np.multiply(square, square, out=square)


def _polynomial(coefficients: tuple[float, ...], x: Array, out: Array) -> Array:
    *rest, highest = coefficients
    np.multiply(x, highest, out=out)
    out += rest.pop()
    while rest:
        out *= x
        out += rest.pop()
    return out


def softmax(xp: Any, x: Any, *, axis: int) -> Any:
    """See `minidiff.ops.softmax`; along the axis whose elements lie side by side, of large arrays."""
    if x.size < _LARGE >> 3 or not served(x) or not np.moveaxis(x, axis, -1).flags.c_contiguous:
        return NotImplemented
    size = x.shape[axis]
    ones = np.ones((size, 1), x.dtype)

    def by_rows(function: Callable[..., object], *arrays: Array) -> Array:
        y: Array = empty_like(x)
        matrices = [np.moveaxis(a, axis, -1).reshape(-1, size) for a in (*arrays, y)]

        def part(rows: slice) -> None:
            function(*(m[rows] for m in matrices))

        blocks = parts(x.size // size, size, least=lanes.sharing(_COST * x.size))
        lanes.each(part, blocks, multiplications=_COST * x.size)
        return y

    def value(x: Array, p: Array) -> None:
        if x.min() > -SAFE and x.max() < SAFE:
            np.exp(x, out=p)
        else:
            np.exp(np.subtract(x, x.max(axis=1, keepdims=True), out=p), out=p)
        p /= p @ ones

    def slope(p: Array, dy: Array, dx: Array) -> None:
        np.multiply(dy, p, out=dx)
        np.subtract(dy, dx @ ones, out=dx)
        dx *= p

    p = by_rows(value, x)
    return p, lambda dy: (by_rows(slope, p, alike(dy, p)),)
