"""Activation functions. Sigmoids are written with tanh, which cannot overflow."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.elementwise import erf
from minidiff.ops.support import cast, form, widen


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
    y = logistic(xp, x)
    return y, lambda dy: (dy * y * (1 - y),)


@op
def silu(xp: Any, x: Any, /) -> Any:
    """The input times its logistic sigmoid, also called swish [1]_.

    References
    ----------
    .. [1] Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function
       approximation in reinforcement learning", 2017, arXiv:1702.03118.
    """
    s = logistic(xp, x)
    return x * s, lambda dy: (dy * s * (1 + x * (1 - s)),)


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
    if approximate is None:
        phi = 0.5 * (1 + erf.rule(xp, x / math.sqrt(2))[0])  # type: ignore[attr-defined]
        return x * phi, lambda dy: (dy * (phi + x * xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)),)
    c, k = math.sqrt(2 / math.pi), 0.044715
    t = xp.tanh(c * x * (1 + k * x * x))

    def vjp(dy: Array) -> tuple[Array]:
        return (dy * 0.5 * (1 + t + x * (1 - t * t) * c * (1 + 3 * k * x * x)),)

    return 0.5 * x * (1 + t), vjp


@op
def softmax(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along one axis, in float32 at least."""
    wide, like = widen(xp, x), form(x)
    e = xp.exp(wide - xp.max(wide, axis=axis, keepdims=True))
    p = e / xp.sum(e, axis=axis, keepdims=True)
    return cast(xp, p, x), lambda dy: (cast(xp, p * (dy - xp.sum(dy * p, axis=axis, keepdims=True)), like),)


@op
def log_softmax(xp: Any, x: Any, /, *, axis: int = -1) -> Any:
    """log(softmax(x)) without its loss of precision, in float32 at least."""
    wide, like = widen(xp, x), form(x)
    shifted = wide - xp.max(wide, axis=axis, keepdims=True)
    y = shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))

    def vjp(dy: Array) -> tuple[Array]:
        dy = widen(xp, dy)
        return (cast(xp, dy - xp.exp(y) * xp.sum(dy, axis=axis, keepdims=True), like),)

    return cast(xp, y, x), vjp
