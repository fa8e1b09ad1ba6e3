"""Activation functions. Sigmoids are written with tanh, which cannot overflow."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.elementwise import erf
from minidiff.ops.support import cast, widen


def logistic(xp: Any, x: Array) -> Array:
    """1 / (1 + exp(-x)), for use inside rules."""
    return 0.5 * xp.tanh(0.5 * x) + 0.5


@op
def relu(xp: Any, x: Any, /) -> Any:
    """max(x, 0); its gradient at 0 is 0."""
    positive = x > 0
    zero = xp.zeros_like(x)
    return xp.where(positive, x, zero), lambda dy: (xp.where(positive, dy, zero),)


@op
def sigmoid(xp: Any, x: Any, /) -> Any:
    """1 / (1 + exp(-x))."""
    y = logistic(xp, x)
    return y, lambda dy: (dy * y * (1 - y),)


@op
def silu(xp: Any, x: Any, /) -> Any:
    """x times the logistic sigmoid of x, also called swish [1]_.

    References
    ----------
    .. [1] Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function
       approximation in reinforcement learning", 2017, arXiv:1702.03118.
    """
    s = logistic(xp, x)
    return x * s, lambda dy: (dy * s * (1 + x * (1 - s)),)


@op
def gelu(xp: Any, x: Any, /, *, approximate: str | None = None) -> Any:
    """x times the normal distribution function of x [1]_.

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
    if approximate == "tanh":
        c = math.sqrt(2 / math.pi)
        t = xp.tanh(c * (x + 0.044715 * x * x * x))
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)
        return 0.5 * x * (1 + t), lambda dy: (dy * slope,)
    if approximate is not None:
        raise ValueError(f"gelu: approximate must be None or 'tanh', got {approximate!r}")
    phi = 0.5 * (1 + erf.rule(xp, x / math.sqrt(2))[0])  # type: ignore[attr-defined]
    return x * phi, lambda dy: (dy * (phi + x * xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)),)


@op
def softmax(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along one axis, in float32 at least."""
    wide = widen(xp, x)
    e = xp.exp(wide - xp.max(wide, axis=axis, keepdims=True))
    p = e / xp.sum(e, axis=axis, keepdims=True)
    return cast(xp, p, x), lambda dy: (cast(xp, p * (dy - xp.sum(dy * p, axis=axis, keepdims=True)), x),)


@op
def log_softmax(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """log(softmax(x)) without its loss of precision, in float32 at least."""
    wide = widen(xp, x)
    shifted = wide - xp.max(wide, axis=axis, keepdims=True)
    y = shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))
    return cast(xp, y, x), lambda dy: (cast(xp, dy - xp.exp(y) * xp.sum(dy, axis=axis, keepdims=True), x),)
