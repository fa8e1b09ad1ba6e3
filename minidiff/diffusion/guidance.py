"""Guidance: how to ask a network for more of a class than it gives by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidiff import ops
from minidiff.backend import Array

__all__ = ["classifier_free_guidance"]


def classifier_free_guidance(
    model: Callable[..., Any], labels: Array, null_label: int, scale: float
) -> Callable[[Array, Array], Any]:
    """A function of (x, t) that goes from what the network says of any image towards `labels`, and past [1]_.

    Its output is u + scale (c - u), where c is the network's output for `labels` and u that for `null_label`,
    both computed in one batch of double size. At scale 1 only c is left, at 0 only u, and only that is computed.

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

    Raises
    ------
    ValueError
        When called, if there are not as many images as labels.

    References
    ----------
    .. [1] Ho, Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
    """
    nulls = ops.full_like(labels, null_label)

    def check(x: Array) -> None:
        if x.shape[0] != labels.shape[0]:
            raise ValueError(f"classifier_free_guidance: {labels.shape[0]} labels for {x.shape[0]} images")

    def alone(x: Array, t: Array) -> Any:
        check(x)
        return model(x, t, labels=labels if scale == 1 else nulls)

    def guided(x: Array, t: Array) -> Any:
        check(x)
        n = x.shape[0]
        both = model(ops.concat([x, x]), ops.concat([t, t]), labels=ops.concat([labels, nulls]))
        c, u = both[:n, ...], both[n:, ...]
        return u + scale * (c - u)

    return alone if scale in (0, 1) else guided
