"""Activation functions. Sigmoids are written with tanh, which cannot overflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.special import erf
from minidiff.ops.support import narrow, widen


def logistic(xp: Any, x: Array) -> Array:
    """1 / (1 + exp(-x)), for use inside rules."""
    return 0.5 * xp.tanh(0.5 * x) + 0.5


@op
def relu(xp: Any, x: Any, /) -> Any:
    """max(x, 0); its gradient at 0 is 0."""
    positive = x > 0
    return xp.where(positive, x, xp.zeros_like(x)), lambda dy: (xp.where(positive, dy, xp.zeros_like(dy)),)


@op
def sigmoid(xp: Any, x: Any, /) -> Any:
    """1 / (1 + exp(-x))."""
    y = logistic(xp, widen(xp, x))
    return narrow(xp, y, x), lambda dy: (dy * y * (1 - y),)


@op
def silu(xp: Any, x: Any, /) -> Any:
    """The input times its logistic sigmoid, also called swish [1]_.

    References
    ----------
    .. [1] Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function
       approximation in reinforcement learning", 2017, arXiv:1702.03118.
    """
    wide = widen(xp, x)
    s = logistic(xp, wide)
    return narrow(xp, wide * s, x), lambda dy: (dy * s * (1 + wide * (1 - s)),)


def check_gelu(x: Array, *, approximate: str | None) -> None:
    """The errors of `gelu`."""
    if approximate not in (None, "tanh"):
        raise ValueError(f"gelu: approximate must be None or 'tanh', got {approximate!r}")


@op(check=check_gelu)
def gelu(xp: Any, x: Any, /, *, approximate: str | None = None) -> Any:
    """The input times the normal distribution function of it [1]_.

    Parameters
    ----------
    x : array
    approximate : None or "tanh"
        None is exact, by `erf`; "tanh" is the approximation of section 2.

    Raises
    ------
    ValueError
        For any other `approximate`.

    References
    ----------
    .. [1] Hendrycks, Gimpel, "Gaussian error linear units", 2016, arXiv:1606.08415.
    """
    wide = widen(xp, x)
    value, slope = (_gelu if approximate is None else _gelu_tanh)(xp, wide)
    return narrow(xp, value, x), lambda dy: (dy * slope(),)


def _gelu(xp: Any, x: Array) -> tuple[Array, Callable[[], Array]]:
    phi = 0.5 * (1 + erf.rule(xp, x / math.sqrt(2))[0])  # type: ignore[attr-defined]
    return x * phi, lambda: phi + x * xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_tanh(xp: Any, x: Array) -> tuple[Array, Callable[[], Array]]:
    c, k = math.sqrt(2 / math.pi), 0.044715
    t = xp.tanh(c * x * (1 + k * x * x))
    return 0.5 * x * (1 + t), lambda: 0.5 * (1 + t + x * (1 - t * t) * c * (1 + 3 * k * x * x))


@op
def softmax(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along one axis, in float32 at least."""
    if 0 in x.shape:  # there may be no greatest number along the axis
        return x, lambda dy: (dy,)
    wide = widen(xp, x)
    e = xp.exp(wide - xp.max(wide, axis=axis, keepdims=True))
    p = e / xp.sum(e, axis=axis, keepdims=True)
    return narrow(xp, p, x), lambda dy: (p * (dy - xp.sum(dy * p, axis=axis, keepdims=True)),)


@op
def log_softmax(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """log(softmax(x)) without its loss of precision, in float32 at least."""
    if 0 in x.shape:
        return x, lambda dy: (dy,)
    wide = widen(xp, x)
    shifted = wide - xp.max(wide, axis=axis, keepdims=True)
    y = shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))

    def vjp(dy: Array) -> tuple[Array]:
        dy = widen(xp, dy)
        return (dy - xp.exp(y) * xp.sum(dy, axis=axis, keepdims=True),)

    return narrow(xp, y, x), vjp
