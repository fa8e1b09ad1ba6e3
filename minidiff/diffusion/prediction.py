"""What the network's output means: the noise, the clean image, v, or the direction from image to noise.

With x_t = alpha x_0 + sigma noise, any one of them and x_t give the others, each as a sum of two arrays. So a
prediction type is a few pairs of numbers. A sampler asks for x_0 and the noise, a loss asks for the target, and
neither knows which type it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from minidiff import ops
from minidiff.backend import Array

__all__ = ["PREDICTION_TYPES", "find_prediction", "min_snr_weight", "target", "to_sample_and_noise"]

LEAST_SNR = 1e-20  # where it is 0, the weight of an error of the noise, min(snr, gamma) / snr, is still 1

Pair: TypeAlias = Callable[[Any, Any], tuple[Any, Any]]  # of (alpha, sigma)


@dataclass(frozen=True)
class Prediction:
    """What counts how much, as functions of alpha and sigma, and of the signal-to-noise ratio."""

    x0: Pair  # what output and x_t count in the clean image
    noise: Pair  # ... and in the noise
    target: Pair  # what x_0 and noise count in the target
    weight: Callable[[Any], Any]  # of snr: what an error of x_0 weighs, as an error of this output


def _norm(alpha: Any, sigma: Any) -> Any:
    """What x_t is divided by before a network sees it whose v is that of a variance-preserving process."""
    return (alpha**2 + sigma**2) ** 0.5


PREDICTION_TYPES: dict[str, Prediction] = {
    "epsilon": Prediction(
        x0=lambda alpha, sigma: (-sigma / alpha, 1 / alpha),
        noise=lambda alpha, sigma: (1, 0),
        target=lambda alpha, sigma: (0, 1),
        weight=lambda snr: 1 / snr,
    ),
    "sample": Prediction(
        x0=lambda alpha, sigma: (1, 0),
        noise=lambda alpha, sigma: (-alpha / sigma, 1 / sigma),
        target=lambda alpha, sigma: (1, 0),
        weight=lambda snr: 1,
    ),
    "v_prediction": Prediction(
        x0=lambda alpha, sigma: (-sigma / _norm(alpha, sigma), alpha / _norm(alpha, sigma) ** 2),
        noise=lambda alpha, sigma: (alpha / _norm(alpha, sigma), sigma / _norm(alpha, sigma) ** 2),
        target=lambda alpha, sigma: (-sigma / _norm(alpha, sigma), alpha / _norm(alpha, sigma)),
        weight=lambda snr: 1 / (snr + 1),
    ),
    "flow_prediction": Prediction(
        x0=lambda alpha, sigma: (-sigma / (alpha + sigma), 1 / (alpha + sigma)),
        noise=lambda alpha, sigma: (alpha / (alpha + sigma), 1 / (alpha + sigma)),
        target=lambda alpha, sigma: (-1, 1),
        weight=lambda snr: 1 / (1 + snr**0.5) ** 2,
    ),
}


def find_prediction(name: str) -> Prediction:
    """The numbers of a prediction type, or a ValueError that lists all."""
    if name not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {list(PREDICTION_TYPES)}, got {name!r}")
    return PREDICTION_TYPES[name]


def to_sample_and_noise(
    prediction_type: str, model_output: Array, x_t: Array, alpha: Any, sigma: Any
) -> tuple[Array, Array]:
    """The clean image and the noise that a network's output stands for.

    Parameters
    ----------
    prediction_type : "epsilon", "sample", "v_prediction" or "flow_prediction"
        The output is the noise (eq. 15 of [1]_), the clean image, v (appendix D of [2]_; of x_t divided by
        sqrt(alpha^2 + sigma^2), where that is not 1), or noise minus clean image (eq. 5 of [3]_).
    model_output, x_t : array, shape (N, C, H, W)
    alpha, sigma : float, or array, shape (N, 1, 1, 1)
        Of the timestep of `x_t`.

    Returns
    -------
    x0, noise : array, shape (N, C, H, W)
        As diffusers' schedulers compute them: what the network gave is passed on as it is.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    .. [2] Salimans, Ho, "Progressive distillation for fast sampling of diffusion models", 2022,
       arXiv:2202.00512.
    .. [3] Liu, Gong, Liu, "Flow straight and fast: learning to generate and transfer data with rectified
       flow", 2022, arXiv:2209.03003.
    """
    kind = find_prediction(prediction_type)
    x0, noise = (_pair(part(alpha, sigma), model_output, x_t) for part in (kind.x0, kind.noise))
    return x0, noise


def target(prediction_type: str, x0: Array, noise: Array, alpha: Any, sigma: Any) -> Array:
    """What a network of this prediction type should have said; arguments as for `to_sample_and_noise`."""
    return _pair(find_prediction(prediction_type).target(alpha, sigma), x0, noise)


def _pair(factors: tuple[Any, Any], x: Array, y: Array) -> Array:
    """A x + b y for numbers, or for arrays (N, 1, 1, 1); an array that counts 1 beside nothing is passed on."""
    a, b = factors
    if isinstance(a, int) and isinstance(b, int) and {a, b} == {0, 1}:
        return x if a else y
    return ops.add(ops.multiply(x, a), ops.multiply(y, b))


def min_snr_weight(prediction_type: str, snr: Array, gamma: float) -> Array:
    """Weights of the squared error at signal-to-noise ratios `snr` (section 3.4 of [1]_).

    An error of x_0 weighs min(snr, gamma), so that timesteps with little noise do not rule the training. As
    an error of the noise that is min(snr, gamma) / snr, and as one of v, min(snr, gamma) / (snr + 1).

    Parameters
    ----------
    prediction_type : "epsilon", "sample", "v_prediction" or "flow_prediction"
    snr : array, any shape
    gamma : float
        Above 0; 5 in the paper.

    References
    ----------
    .. [1] Hang et al., "Efficient diffusion training via min-SNR weighting strategy", 2023, arXiv:2303.09556.
    """
    if not gamma > 0:
        raise ValueError(f"min-SNR: gamma must be above 0, got {gamma}")
    snr = ops.clip(snr, LEAST_SNR, None)
    return ops.clip(snr, None, gamma) * find_prediction(prediction_type).weight(snr)
