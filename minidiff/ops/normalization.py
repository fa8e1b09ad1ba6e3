"""Normalization: centre, divide by the standard deviation, scale and shift.

The variance comes from centred values, never from E[x^2] - E[x]^2, and is summed in
float32 at least: data with mean 1000 and standard deviation 1 is normalized as well as any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.activation import silu
from minidiff.ops.support import check_floating, check_shape, narrow, normal_axes, sum_to, widen


def _standardize(
    xp: Any, x: Array, axes: tuple[int, ...], eps: float, *, centre: bool = True
) -> tuple[Array, Callable[[Array], Array]]:
    """(x - mean) / sqrt(variance + eps) over `axes`, and its pullback."""
    centred = x - xp.mean(x, axis=axes, keepdims=True) if centre else x
    rstd = 1 / xp.sqrt(xp.mean(centred * centred, axis=axes, keepdims=True) + eps)
    x_hat = centred * rstd

    def vjp(dx_hat: Array) -> Array:
        along = xp.mean(dx_hat * x_hat, axis=axes, keepdims=True)
        offset = xp.mean(dx_hat, axis=axes, keepdims=True) if centre else 0.0
        return rstd * (dx_hat - offset - x_hat * along)

    return x_hat, vjp


def check_group_norm(
    x: Array, weight: Any, bias: Any, *, groups: int, eps: float, activation: str | None
) -> None:
    """The errors of `group_norm`."""
    check_floating("group_norm", x=x, weight=weight, bias=bias)
    if len(x.shape) < 2:
        raise ValueError(f"group_norm: expected x of shape (N, C, ...), got shape {tuple(x.shape)}")
    c = x.shape[1]
    if groups < 1 or c % groups:
        raise ValueError(
            f"group_norm: {groups} groups do not divide {c} channels (x has shape {tuple(x.shape)})"
        )
    check_shape("group_norm", "weight", weight, (c,), "for the channels of x")
    check_shape("group_norm", "bias", bias, (c,), "for the channels of x")
    if activation not in (None, "silu"):
        raise ValueError(f"group_norm: activation must be None or 'silu', got {activation!r}")


@op(check=check_group_norm)
def group_norm(
    xp: Any,
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    groups: int,
    eps: float = 1e-5,
    activation: str | None = None,
) -> Any:
    r"""Normalize each group of channels of each image, then scale and shift by channel [1]_.

    .. math:: y = \gamma_c \frac{x - \mu_{ng}}{\sqrt{\sigma^2_{ng} + \epsilon}} + \beta_c

    Parameters
    ----------
    x : array, shape (N, C, *S)
    weight, bias : array, shape (C,), optional
    groups : int
        Must divide C.
    eps : float
        Added to the variance, in the units of x squared.
    activation : None or "silu"
        Applied to the result; one pass over the image fewer where a backend fuses it.

    Returns
    -------
    array, shape (N, C, *S)

    Raises
    ------
    ValueError
        If `groups` does not divide C, or `activation` is unknown.
    TypeError
        If the dtypes differ or are not floating.

    References
    ----------
    .. [1] Wu, He, "Group normalization", 2018, arXiv:1803.08494, equations 1 and 2.
    """
    shape = tuple(x.shape)
    n, c, *image = shape
    grouped = (n, groups, c // groups * math.prod(image))
    x_hat, back = _standardize(xp, xp.reshape(widen(xp, x), grouped), (2,), eps)
    y, affine_vjp = _affine(xp, xp.reshape(x_hat, shape), weight, bias, (c, *[1] * len(image)))
    y, silu_vjp = silu.rule(xp, y) if activation else (y, lambda dy: (dy,))  # type: ignore[attr-defined]

    def vjp(dy: Array) -> tuple[Any, ...]:
        dx_hat, dweight, dbias = affine_vjp(silu_vjp(widen(xp, dy))[0])
        return (
            lambda: xp.reshape(back(xp.reshape(dx_hat, grouped)), shape),
            dweight,
            dbias,
        )

    return narrow(xp, y, x), vjp


def _affine(
    xp: Any, x_hat: Array, weight: Any, bias: Any, shape: tuple[int, ...]
) -> tuple[Array, Callable[[Array], Any]]:
    """x_hat * weight + bias, both seen under `shape` and optional, with the pullback to all three."""
    gamma = None if weight is None else xp.reshape(widen(xp, weight), shape)
    y = x_hat if gamma is None else x_hat * gamma
    if bias is not None:
        y = y + xp.reshape(widen(xp, bias), shape)

    def gather(d: Array, like: Array) -> Array:
        return xp.reshape(sum_to(xp, d, shape), like.shape)

    def vjp(dy: Array) -> tuple[Any, ...]:
        return (
            dy if gamma is None else dy * gamma,
            None if weight is None else lambda: gather(dy * x_hat, weight),
            None if bias is None else lambda: gather(dy, bias),
        )

    return y, vjp


def check_last_axes(
    name: str, x: Array, weight: Any, bias: Any = None, *, axis: int | tuple[int, ...], eps: float
) -> None:
    """The errors of `layer_norm` and `rms_norm`."""
    check_floating(name, x=x, weight=weight, bias=bias)
    axes = normal_axes(axis, x.ndim)
    if sorted(axes) != list(range(x.ndim - len(axes), x.ndim)):
        raise ValueError(f"{name}: axis {axis} are not the last axes of an array of shape {tuple(x.shape)}")
    last = tuple(x.shape[x.ndim - len(axes) :])
    check_shape(name, "weight", weight, last, "for the last axes of x")
    check_shape(name, "bias", bias, last, "for the last axes of x")


@op(check=partial(check_last_axes, "layer_norm"))
def layer_norm(
    xp: Any,
    x: Any,
    weight: Any = None,
    bias: Any = None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
) -> Any:
    """Normalize each position over its last axes, then scale and shift by element [1]_.

    Parameters
    ----------
    x : array, shape (..., *D)
    weight, bias : array, shape D, optional
    axis : int or tuple of int
        The last axes, those of `weight`.
    eps : float
        Added to the variance.

    Raises
    ------
    ValueError
        If `axis` are not the last axes.

    References
    ----------
    .. [1] Ba, Kiros, Hinton, "Layer normalization", 2016, arXiv:1607.06450, equation 3.
    """
    return _over_last_axes(xp, x, weight, bias, axis, eps, centre=True)


@op(check=partial(check_last_axes, "rms_norm"))
def rms_norm(
    xp: Any, x: Any, weight: Any = None, *, axis: int | tuple[int, ...] = -1, eps: float = 1e-5
) -> Any:
    """Divide each position by the root of its mean square over the last axes, then scale by element [1]_.

    Parameters
    ----------
    x : array, shape (..., *D)
    weight : array, shape D, optional
    axis : int or tuple of int
        The last axes, those of `weight`.
    eps : float
        Added to the mean square.

    References
    ----------
    .. [1] Zhang, Sennrich, "Root mean square layer normalization", 2019, arXiv:1910.07467, equation 4.
    """
    return _over_last_axes(xp, x, weight, None, axis, eps, centre=False)


def _over_last_axes(
    xp: Any, x: Array, weight: Any, bias: Any, axis: int | tuple[int, ...], eps: float, *, centre: bool
) -> Any:
    axes = normal_axes(axis, x.ndim)
    x_hat, back = _standardize(xp, widen(xp, x), axes, eps, centre=centre)
    y, affine_vjp = _affine(xp, x_hat, weight, bias, tuple(x.shape[x.ndim - len(axes) :]))

    def vjp(dy: Array) -> tuple[Any, ...]:
        dx_hat, dweight, dbias = affine_vjp(widen(xp, dy))
        return lambda: back(dx_hat), dweight, dbias

    return narrow(xp, y, x), vjp
