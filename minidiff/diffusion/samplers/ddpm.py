"""Ancestral sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log, sqrt
from typing import Any, ClassVar

from minidiff import ops
from minidiff.backend import Array
from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.discrete import DiscreteSampler
from minidiff.diffusion.samplers.sampler import Draw, Step, mix
from minidiff.diffusion.schedule import posterior_coefficients

__all__ = ["DDPM", "VARIANCE_TYPES"]

VARIANCE_TYPES: dict[
    str, Callable[[float, float, Any], Any]
] = {  # standard deviation of (beta_tilde, beta, output)
    "fixed_small": lambda small, large, y: sqrt(small),
    "fixed_small_log": lambda small, large, y: sqrt(small),
    "fixed_large": lambda small, large, y: sqrt(large),
    "fixed_large_log": lambda small, large, y: sqrt(large),
    "learned": lambda small, large, y: ops.sqrt(y),
    "learned_range": lambda small, large, y: ops.exp(
        ops.add(ops.multiply(y, (log(large) - log(small)) / 4), (log(large) + log(small)) / 4)
    ),
}


@dataclass(kw_only=True, eq=False, repr=False)
class DDPM(DiscreteSampler):
    """Ancestral sampling: draw from the posterior, in place of x_0 its prediction [1]_.

    As in diffusers, noise is added in every step but that of timestep 0.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    variance_type : str
        "fixed_small": the variance of the posterior, right for images that are certain. "fixed_large": beta, right
        for images of pure noise (section 3.2 of [1]_). The same with "_log". "learned": the second half of
        the network's channels is the variance; "learned_range": it says where between the two, from -1 to 1, the
        logarithm lies (eq. 15 of [2]_).
    clip_sample, clip_sample_range : bool, float
        Limit the predicted clean image to [-clip_sample_range, clip_sample_range] in every step.
    thresholding, dynamic_thresholding_ratio, sample_max_value : bool, float, float
        Limit it to a quantile of each image instead; see `dynamic_threshold`.
    rescale_betas_zero_snr : bool
        See `NoiseSchedule`.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, algorithm 2.
    .. [2] Nichol, Dhariwal, "Improved denoising diffusion probabilistic models", 2021, arXiv:2102.09672.

    Examples
    --------
    >>> sampler = DDPM(beta_schedule="cosine", prediction_type="v_prediction")
    >>> sampler.set_timesteps(4)
    >>> sampler.timesteps
    [750, 500, 250, 0]
    """

    diffusers_name: ClassVar[str] = "DDPMScheduler"

    variance_type: str = "fixed_small"
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance_type not in VARIANCE_TYPES:
            raise ValueError(
                f"DDPM: variance_type must be one of {list(VARIANCE_TYPES)}, got {self.variance_type!r}"
            )

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        y, y_variance = self._halves(y, x)
        x0 = self._x0(y, x, here)
        of_x0, of_x, small, large = ancestral(here, there)
        std = VARIANCE_TYPES[self.variance_type](max(small, 1e-20), large, y_variance)
        if here.timestep == 0:
            return Step(mix((of_x0, x0), (of_x, x)), x0)
        if isinstance(std, float):
            return Step(mix((of_x0, x0), (of_x, x), (std, draw())), x0)  # eq. 7
        return Step(ops.add(mix((of_x0, x0), (of_x, x)), ops.multiply(std, draw())), x0)

    def _halves(self, y: Array, x: Array) -> tuple[Array, Array]:
        """The network's output, and what it says of the variance."""
        if not self.variance_type.startswith("learned"):
            return y, None
        c = x.shape[1]
        if y.shape[1] != 2 * c:
            raise ValueError(
                f"DDPM.step: with variance_type {self.variance_type!r} the network must give {2 * c} channels for "
                f"images of {c}, got {y.shape[1]}"
            )
        return y[:, :c, ...], y[:, c:, ...]


def ancestral(here: Point, there: Point) -> tuple[float, float, float, float]:
    """What x_0 and x count in the posterior's mean, its variance beta_tilde, and beta (eq. 6 and 7)."""
    of_x0, of_x, small = posterior_coefficients(here.alpha, here.sigma, there.alpha, there.sigma)
    return of_x0, of_x, small, here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2
