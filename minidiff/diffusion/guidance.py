"""Guidance: how to ask a network for more of a class than it gives by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidiff import ops
from minidiff.backend import Array

__all__ = ["classifier_free_guidance", "rescale_guidance"]


def classifier_free_guidance(
    model: Callable[..., Any], labels: Array, null_label: int, scale: float, *, rescale: float = 0.0
) -> Callable[[Array, Array], Any]:
    """A function of (x, t) that goes from what the network says of any image towards `labels`, and past [1]_.

    Its output is u + scale (c - u), where c is the network's output for `labels` and u that for `null_label`,
    both computed in one batch of double size. At scale 1 only c is left, at 0 only u, and only that is computed.
    Channels beyond those of x, which say a learned variance, are those of c.

    Parameters
    ----------
    model : callable
        `model(x, t, labels=labels)`.
    labels : array of integers, shape (N,)
        The class of each image, on the model's device.
    null_label : int
        The class that stood for "any" in training.
    scale : float
        1 + w, where w is the guidance strength of eq. 6 of [1]_.
    rescale : float
        How far to undo that guidance makes the output larger; see `rescale_guidance`.

    Raises
    ------
    ValueError
        If `rescale` is not from 0 to 1; when called, if there are not as many images as labels.

    References
    ----------
    .. [1] Ho, Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"classifier_free_guidance: rescale must lie in [0, 1], got {rescale}")
    nulls = ops.full_like(labels, null_label)

    def check(x: Array) -> None:
        if x.shape[0] != labels.shape[0]:
            raise ValueError(f"classifier_free_guidance: {labels.shape[0]} labels for {x.shape[0]} images")

    def alone(x: Array, t: Array) -> Any:
        check(x)
        return model(x, t, labels=labels if scale == 1 else nulls)

    def guided(x: Array, t: Array) -> Any:
        check(x)
        n, channels = x.shape[:2]
        both = model(ops.concat([x, x]), ops.concat([t, t]), labels=ops.concat([labels, nulls]))
        c, u = both[:n, :channels, ...], both[n:, :channels, ...]
        y = u + scale * (c - u)
        y = rescale_guidance(y, c, rescale) if rescale else y
        return y if both.shape[1] == channels else ops.concat([y, both[:n, channels:, ...]], axis=1)

    return alone if scale in (0, 1) else guided


def rescale_guidance(guided: Array, conditional: Array, share: float) -> Array:
    """Give the output of guidance the standard deviation that it should have, in part (eq. 15 and 16 of [1]_).

    Parameters
    ----------
    guided : array, shape (N, C, H, W)
        u + scale (c - u).
    conditional : array, shape (N, C, H, W)
        c, whose standard deviation over each image is the right one.
    share : float
        phi in the paper: 0 leaves `guided` as it is, 1 gives it all of it back; 0.7 there.

    References
    ----------
    .. [1] Lin, Liu, Li, Yang, "Common diffusion noise schedules and sample steps are flawed", 2023,
       arXiv:2305.08891, section 3.4.
    """
    axes = tuple(range(1, len(guided.shape)))
    right, now = (ops.std(x, axis=axes, keepdims=True) for x in (conditional, guided))
    return guided * (share * (right / now) + (1 - share))
