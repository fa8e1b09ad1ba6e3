"""What the network's output means: the noise, the clean image, or v.

With x_t = alpha x_0 + sigma noise and alpha^2 + sigma^2 = 1, any one of the three and x_t give the other two.
So a sampler asks for x_0 and the noise, a loss asks for the target, and neither knows which of the three it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minidiff import ops
from minidiff.backend import Array

__all__ = ["PREDICTION_TYPES", "min_snr_weight", "target", "to_sample_and_noise"]


@dataclass(frozen=True)
class Prediction:
    """Three formulas. In the first, `y` is the network's output."""

    sample_and_noise: Callable[[Array, Array, Any, Any], tuple[Array, Array]]  # (y, x_t, alpha, sigma)
    target: Callable[[Array, Array, Any, Any], Array]  # (x0, noise, alpha, sigma)
    weight: Callable[[Any], Any]  # of snr: what an error of x_0 weighs, as an error of this output


PREDICTION_TYPES: dict[str, Prediction] = {
    "epsilon": Prediction(
        sample_and_noise=lambda eps, x_t, alpha, sigma: ((x_t - sigma * eps) / alpha, eps),
        target=lambda x0, noise, alpha, sigma: noise,
        weight=lambda snr: 1 / snr,
    ),
    "sample": Prediction(
        sample_and_noise=lambda x0, x_t, alpha, sigma: (x0, (x_t - alpha * x0) / sigma),
        target=lambda x0, noise, alpha, sigma: x0,
        weight=lambda snr: 1,
    ),
    "v_prediction": Prediction(
        sample_and_noise=lambda v, x_t, alpha, sigma: (alpha * x_t - sigma * v, alpha * v + sigma * x_t),
        target=lambda x0, noise, alpha, sigma: alpha * noise - sigma * x0,
        weight=lambda snr: 1 / (snr + 1),
    ),
}


def find_prediction(name: str) -> Prediction:
    """The formulas of a prediction type, or a ValueError that lists all."""
    if name not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {list(PREDICTION_TYPES)}, got {name!r}")
    return PREDICTION_TYPES[name]


def to_sample_and_noise(
    prediction_type: str, model_output: Array, x_t: Array, alpha: Any, sigma: Any
) -> tuple[Array, Array]:
    """The clean image and the noise that a network's output stands for.

    Parameters
    ----------
    prediction_type : "epsilon", "sample" or "v_prediction"
        The output is the noise (eq. 15 of [1]_), the clean image, or v (appendix D of [2]_).
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
    """
    return find_prediction(prediction_type).sample_and_noise(model_output, x_t, alpha, sigma)


def target(prediction_type: str, x0: Array, noise: Array, alpha: Any, sigma: Any) -> Array:
    """What a network of this prediction type should have said; arguments as for `to_sample_and_noise`."""
    return find_prediction(prediction_type).target(x0, noise, alpha, sigma)


def min_snr_weight(prediction_type: str, snr: Array, gamma: float) -> Array:
    """Weights of the squared error at signal-to-noise ratios `snr` (section 3.4 of [1]_).

    An error of x_0 weighs min(snr, gamma), so that timesteps with little noise do not rule the training. As
    an error of the noise that is min(snr, gamma) / snr, and as one of v, min(snr, gamma) / (snr + 1).

    Parameters
    ----------
    prediction_type : "epsilon", "sample" or "v_prediction"
    snr : array, any shape
    gamma : float
        Above 0; 5 in the paper.

    References
    ----------
    .. [1] Hang et al., "Efficient diffusion training via min-SNR weighting strategy", 2023, arXiv:2303.09556.
    """
    if not gamma > 0:
        raise ValueError(f"min-SNR: gamma must be above 0, got {gamma}")
    return ops.clip(snr, None, gamma) * find_prediction(prediction_type).weight(snr)
