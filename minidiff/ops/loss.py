"""Losses, computed in float32 at least. Each averages, adds up, or leaves its elements alone (`reduction`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.activation import log_softmax, logistic
from minidiff.ops.support import (
    as_array,
    check_array,
    check_floating,
    check_shape,
    dtype_name,
    normal_axis,
    numbers,
    widen,
)

_REDUCTIONS: dict[str, Callable[[Any, Array], Array]] = {
    "mean": lambda xp, losses: xp.mean(losses),
    "sum": lambda xp, losses: xp.sum(losses),
    "none": lambda xp, losses: losses,
}


def _reduced(xp: Any, losses: Array, reduction: str) -> tuple[Array, float]:
    """The reduced losses, and what each element's gradient is multiplied by."""
    share = 1 / max(1, math.prod(losses.shape)) if reduction == "mean" else 1.0
    return _REDUCTIONS[reduction](xp, losses), share


def check_loss(name: str, prediction: Array, target: Array, *, reduction: str, delta: float = 1.0) -> None:
    """The errors of the losses that compare like with like."""
    check_floating(name, prediction=prediction, target=target)
    check_shape(name, "target", target, tuple(prediction.shape), "like prediction")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{name}: reduction must be one of {sorted(_REDUCTIONS)}, got {reduction!r}")
    if not delta > 0:
        raise ValueError(f"{name}: delta must be above 0, got {delta}")


def _of_difference(
    xp: Any, prediction: Array, target: Array, reduction: str, f: Callable[[Array], tuple[Array, Array]]
) -> Any:
    """A loss f(prediction - target), where f returns values and slopes."""
    losses, slope = f(widen(xp, prediction) - widen(xp, target))
    y, share = _reduced(xp, losses, reduction)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = slope * (dy * share)
        return lambda: d, lambda: -d

    return y, vjp


@op(check=partial(check_loss, "mse_loss"))
def mse_loss(xp: Any, prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Squared difference.

    Parameters
    ----------
    prediction, target : array, of one shape
    reduction : "mean", "sum" or "none"

    Raises
    ------
    ValueError
        If the shapes differ or `reduction` is unknown.
    """
    return _of_difference(xp, prediction, target, reduction, lambda d: (d * d, 2 * d))


@op(check=partial(check_loss, "l1_loss"))
def l1_loss(xp: Any, prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Absolute difference.

    Parameters
    ----------
    prediction, target : array, of one shape
    reduction : "mean", "sum" or "none"
    """
    return _of_difference(xp, prediction, target, reduction, lambda d: (xp.abs(d), xp.sign(d)))


@op(check=partial(check_loss, "huber_loss"))
def huber_loss(xp: Any, prediction: Any, target: Any, *, delta: float = 1.0, reduction: str = "mean") -> Any:
    """Half the squared difference d, and beyond `delta` the line delta (|d| - delta / 2) [1]_.

    Parameters
    ----------
    prediction, target : array, of one shape
    delta : float
        Above 0.
    reduction : "mean", "sum" or "none"

    References
    ----------
    .. [1] Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35, 1964.
    """

    def f(d: Array) -> tuple[Array, Array]:
        edge = as_array(xp, delta, d)
        slope = xp.minimum(xp.maximum(d, -edge), edge)
        return slope * (d - 0.5 * slope), slope

    return _of_difference(xp, prediction, target, reduction, f)


@op(check=partial(check_loss, "binary_cross_entropy_with_logits"))
def binary_cross_entropy_with_logits(
    xp: Any, prediction: Any, target: Any, *, reduction: str = "mean"
) -> Any:
    """-t log s(z) - (1 - t) log(1 - s(z)) for logits z and the logistic sigmoid s, without overflow.

    Parameters
    ----------
    prediction : array
        Logits z.
    target : array, of the same shape and dtype
        Probabilities t, 0 to 1.
    reduction : "mean", "sum" or "none"
    """
    z, t = widen(xp, prediction), widen(xp, target)
    losses = xp.maximum(z, xp.zeros_like(z)) - z * t + xp.log1p(xp.exp(-xp.abs(z)))
    y, share = _reduced(xp, losses, reduction)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = dy * share
        return lambda: (logistic(xp, z) - t) * d, lambda: -z * d

    return y, vjp


def check_cross_entropy(prediction: Array, target: Array, *, axis: int, reduction: str) -> None:
    """The errors of `cross_entropy`, except for class numbers that are out of range."""
    check_array("cross_entropy", "target", target)
    if "int" not in dtype_name(target.dtype):
        return check_loss("cross_entropy", prediction, target, reduction=reduction)
    axis = normal_axis(axis, prediction.ndim)
    positions = tuple(n for i, n in enumerate(prediction.shape) if i != axis)
    why = f"for prediction {tuple(prediction.shape)} with classes along axis {axis}"
    check_shape("cross_entropy", "target", target, positions, why)
    return check_loss("cross_entropy", prediction, prediction, reduction=reduction)


@op(check=check_cross_entropy)
def cross_entropy(xp: Any, prediction: Any, target: Any, *, axis: int = 1, reduction: str = "mean") -> Any:
    """-log softmax(z)[class], or its mean over a soft target's classes.

    Parameters
    ----------
    prediction : array, shape (N, K, *S)
        Logits z; the classes lie along `axis`.
    target : array of integers, shape (N, *S), or array, shape (N, K, *S)
        Class numbers from 0 to K - 1, or probabilities of the classes.
    axis : int
    reduction : "mean", "sum" or "none"
        The mean is over positions, (N, *S).

    Raises
    ------
    IndexError
        If a class number is outside 0 to K - 1.
    ValueError
        If the shapes do not fit.
    """
    axis = normal_axis(axis, prediction.ndim)
    t = _one_hot(xp, prediction, target, axis) if "int" in dtype_name(target.dtype) else widen(xp, target)
    logp, pull = log_softmax.rule(xp, widen(xp, prediction), axis=axis)  # type: ignore[attr-defined]
    counted = xp.where(t == 0, xp.zeros_like(logp), logp)  # 0 * log 0 is 0
    y, share = _reduced(xp, -xp.sum(t * counted, axis=axis), reduction)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = (xp.expand_dims(dy, axis=axis) if reduction == "none" else dy) * share
        return lambda: pull(-t * d)[0], lambda: -logp * d

    return y, vjp


def _one_hot(xp: Any, prediction: Array, target: Array, axis: int) -> Array:
    count = prediction.shape[axis]
    target = xp.astype(target, xp.int64)
    if 0 not in target.shape:
        low, high = int(xp.min(target)), int(xp.max(target))
        if low < 0 or high >= count:
            raise IndexError(f"cross_entropy: class {low if low < 0 else high} is outside 0 to {count - 1}")
    classes = xp.reshape(numbers(xp, count, target), (count,) + (1,) * (prediction.ndim - axis - 1))
    return xp.astype(xp.expand_dims(target, axis=axis) == classes, widen(xp, prediction).dtype)
