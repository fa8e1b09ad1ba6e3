"""Losses, computed in float32 at least. Each averages, adds up, or leaves its elements alone (`reduction`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.activation import log_softmax, logistic
from minidiff.ops.support import as_array, cast, check_floating, widen

_REDUCTIONS: dict[str, Callable[[Any, Array], Array]] = {
    "mean": lambda xp, losses: xp.mean(losses),
    "sum": lambda xp, losses: xp.sum(losses),
    "none": lambda xp, losses: losses,
}


def _reduced(name: str, xp: Any, losses: Array, reduction: str) -> tuple[Array, float]:
    """The reduced losses, and what each element's gradient is multiplied by."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{name}: reduction must be one of {sorted(_REDUCTIONS)}, got {reduction!r}")
    size = max(1, int(losses.size if isinstance(losses.size, int) else losses.numel()))
    return _REDUCTIONS[reduction](xp, losses), 1 / size if reduction == "mean" else 1.0


def _same_shapes(name: str, prediction: Array, target: Array) -> None:
    check_floating(name, prediction=prediction, target=target)
    if tuple(prediction.shape) != tuple(target.shape):
        raise ValueError(f"{name}: prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}")


def _of_difference(
    name: str, xp: Any, prediction: Array, target: Array, reduction: str, f: Callable[[Array], tuple[Array, Array]]
) -> Any:
    """A loss f(prediction - target), where f returns values and slopes."""
    _same_shapes(name, prediction, target)
    losses, slope = f(widen(xp, prediction) - widen(xp, target))
    y, share = _reduced(name, xp, losses, reduction)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = slope * (dy * share)
        return lambda: cast(xp, d, prediction), lambda: cast(xp, -d, target)

    return y, vjp


@op
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
    return _of_difference("mse_loss", xp, prediction, target, reduction, lambda d: (d * d, 2 * d))


@op
def l1_loss(xp: Any, prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """Absolute difference.

    Parameters
    ----------
    prediction, target : array, of one shape
    reduction : "mean", "sum" or "none"
    """
    return _of_difference("l1_loss", xp, prediction, target, reduction, lambda d: (xp.abs(d), xp.sign(d)))


@op
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
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be above 0, got {delta}")

    def f(d: Array) -> tuple[Array, Array]:
        edge = as_array(xp, delta, d)
        slope = xp.minimum(xp.maximum(d, -edge), edge)
        return slope * (d - 0.5 * slope), slope

    return _of_difference("huber_loss", xp, prediction, target, reduction, f)


@op
def binary_cross_entropy_with_logits(xp: Any, prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """-t log s(z) - (1 - t) log(1 - s(z)) for logits z and the logistic sigmoid s, without overflow.

    Parameters
    ----------
    prediction : array
        Logits z.
    target : array, of the same shape and dtype
        Probabilities t, 0 to 1.
    reduction : "mean", "sum" or "none"
    """
    _same_shapes("binary_cross_entropy_with_logits", prediction, target)
    z, t = widen(xp, prediction), widen(xp, target)
    losses = xp.maximum(z, xp.zeros_like(z)) - z * t + xp.log1p(xp.exp(-xp.abs(z)))
    y, share = _reduced("binary_cross_entropy_with_logits", xp, losses, reduction)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = dy * share
        return lambda: cast(xp, (logistic(xp, z) - t) * d, prediction), lambda: cast(xp, -z * d, target)

    return y, vjp


@op
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
    axis = axis % prediction.ndim
    if xp.isdtype(target.dtype, "integral"):
        t = _one_hot(xp, prediction, target, axis)
    else:
        _same_shapes("cross_entropy", prediction, target)
        t = widen(xp, target)
    logp, pull = log_softmax.rule(xp, widen(xp, prediction), axis=axis)  # type: ignore[attr-defined]
    y, share = _reduced("cross_entropy", xp, -xp.sum(t * logp, axis=axis), reduction)

    def vjp(dy: Array) -> tuple[Any, ...]:
        d = xp.expand_dims(dy, axis=axis) * share if reduction == "none" else dy * share
        return lambda: cast(xp, pull(-t * d)[0], prediction), lambda: cast(xp, -logp * d, target)

    return y, vjp


def _one_hot(xp: Any, prediction: Array, target: Array, axis: int) -> Array:
    count = prediction.shape[axis]
    expected = tuple(n for i, n in enumerate(prediction.shape) if i != axis)
    if tuple(target.shape) != expected:
        raise ValueError(
            f"cross_entropy: target has shape {tuple(target.shape)}, expected {expected} "
            f"for prediction {tuple(prediction.shape)} with {count} classes along axis {axis}"
        )
    if target.shape and 0 not in target.shape:
        low, high = int(xp.min(target)), int(xp.max(target))
        if low < 0 or high >= count:
            raise IndexError(f"cross_entropy: class {low if low < 0 else high} is outside 0 to {count - 1}")
    numbers = xp.arange(count, dtype=target.dtype, device=target.device)
    numbers = xp.reshape(numbers, (count,) + (1,) * (prediction.ndim - axis - 1))
    return xp.astype(xp.expand_dims(target, axis=axis) == numbers, widen(xp, prediction).dtype)
