"""What the network is asked in each step: alone, of a class, with guidance, beside a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from minidiff import ops
from minidiff.backend import Array, Backend
from minidiff.diffusion import classifier_free_guidance
from minidiff.pipelines.pipeline import Pipeline

__all__ = ["Guidance", "PredictAt", "denoiser"]

Denoise: TypeAlias = Callable[[Array, Array], Any]
PredictAt: TypeAlias = Callable[[int], Denoise]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, where and how much.

    Parameters
    ----------
    scale : float
        1 is none; see `diffusion.classifier_free_guidance`.
    rescale : float
        0 is none; see `diffusion.rescale_guidance`.
    interval : (float, float)
        Guide only at noise levels sigma / alpha above the first and up to the second number [1]_; elsewhere images
        only follow their class, which takes half the time.

    Raises
    ------
    ValueError
        If the interval is empty, or `rescale` not from 0 to 1.

    References
    ----------
    .. [1] Kynkäänniemi et al., "Applying guidance in a limited interval improves sample and distribution quality in
       diffusion models", 2024, arXiv:2404.07724, eq. 6.
    """

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low < high:
            raise ValueError(
                f"Guidance: expected an interval 0 <= low < high of noise levels, got {self.interval}"
            )
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"Guidance: rescale must lie in [0, 1], got {self.rescale}")


def denoiser(
    pipeline: Pipeline, backend: Backend, guidance: float | Guidance = 1.0
) -> Callable[[Sequence[int] | None, Array], PredictAt]:
    """How the network is asked: compiled here, once, for all batches.

    The network computes in the dtype of its parameters; images stay in theirs.

    Parameters
    ----------
    pipeline : Pipeline
    backend : Backend
        Of the images.
    guidance : float or Guidance

    Returns
    -------
    callable
        `ask(labels, beside)` takes the classes of N images or None, and further channels of the network's input,
        (N, c, H, W), or None. It gives a function of the number of a step that gives a function of (x, t), and raises
        ValueError if there is guidance without labels, or without a label that stands for "any".
    """
    model, sampler = pipeline.model, pipeline.sampler
    dtype = pipeline.weights[0].dtype if pipeline.weights else None
    null = getattr(model, "null_label", None)
    chosen = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    low, high = chosen.interval

    def network(beside: Array, x: Array, t: Array, **labels: Array) -> Any:
        whole = x if beside is None else ops.concat([x, _as_often(beside, x)], axis=1)
        return model(whole if dtype is None else ops.astype(whole, dtype, copy=False), t, **labels)

    def guided(scale: float) -> Callable[..., Any]:
        def towards(beside: Array, classes: Array, x: Array, t: Array) -> Any:
            asked = partial(network, beside)
            return classifier_free_guidance(asked, classes, null or 0, scale, rescale=chosen.rescale)(x, t)

        return backend.compile(towards)

    alone, follow, guide = backend.compile(network), guided(1.0), guided(chosen.scale)

    def ask(labels: Sequence[int] | None, beside: Array) -> PredictAt:
        if labels is None:
            if chosen.scale != 1:
                raise ValueError(f"guidance of scale {chosen.scale} needs labels")
            return lambda i: partial(alone, beside)
        if null is None and chosen.scale != 1:
            raise ValueError(
                f"guidance of scale {chosen.scale} needs a network with a label that stands for any class"
            )
        given = np.asarray(labels)
        whole = given.astype(np.int64)
        if (whole != given).any():
            raise ValueError(f"labels: expected numbers of classes, which are whole, got {given.tolist()}")
        classes = backend.from_numpy(whole)
        return lambda i: partial(guide if low < sampler.points[i].ratio <= high else follow, beside, classes)

    return ask


def _as_often(beside: Array, x: Array) -> Array:
    """The same channels for both halves of a batch of guidance."""
    return beside if beside.shape[0] == x.shape[0] else ops.concat([beside, beside])
