"""Samplers, each as its paper writes it; a is alpha_bar_t, a_prev that of the timestep which follows in the loop.

They agree with diffusers where diffusers agrees with the papers. They differ in two places: the timestep
which follows is always the next one of `timesteps` (diffusers' DDIM takes t - T // n, which is another one for
"linspace", and for "trailing" where n does not divide T), and the last step of DDPM adds no noise whatever its
timestep is (diffusers adds some unless it is 0).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

from minidiff.backend import Array
from minidiff.diffusion.schedule import NoiseSchedule, posterior_coefficients
from minidiff.diffusion.stepping import Sampler, Step
from minidiff.random import Generator

__all__ = ["DDIM", "DDPM", "SAMPLERS", "make_sampler"]

VARIANCE_TYPES: dict[str, Callable[[float, float], float]] = {  # of (beta, beta_tilde)
    "fixed_small": lambda beta, beta_tilde: beta_tilde,
    "fixed_large": lambda beta, beta_tilde: beta,
}


class DDPM(Sampler):
    """Ancestral sampling: draw from the posterior, in place of x_0 its prediction [1]_.

    Parameters
    ----------
    schedule, **options
        See `Sampler`.
    variance_type : "fixed_small" or "fixed_large"
        The variance of a step: that of the posterior, right for images that are certain, or beta, right for
        images of pure noise (section 3.2 of [1]_).

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, algorithm 2.

    Examples
    --------
    >>> sampler = DDPM(beta_schedule="cosine", prediction_type="v_prediction")
    >>> sampler.set_timesteps(4)
    >>> sampler.timesteps
    [750, 500, 250, 0]
    """

    def __init__(
        self, schedule: NoiseSchedule | None = None, *, variance_type: str = "fixed_small", **options: Any
    ) -> None:
        super().__init__(schedule, **options)
        if variance_type not in VARIANCE_TYPES:
            raise ValueError(
                f"DDPM: variance_type must be one of {list(VARIANCE_TYPES)}, got {variance_type!r}"
            )
        self.variance_type = variance_type

    def step(
        self, model_output: Array, timestep: int, sample: Array, *, rng: Generator | None = None
    ) -> Step:
        """See `Sampler.step`."""
        a, a_prev = self._alpha_bars(timestep)
        x0, _ = self._sample_and_noise(model_output, sample, a)
        of_x0, of_xt, beta_tilde = posterior_coefficients(a, a_prev)
        x = of_x0 * x0 + of_xt * sample  # eq. 7
        if timestep != self.timesteps[-1]:
            variance = VARIANCE_TYPES[self.variance_type](1 - a / a_prev, beta_tilde)
            x = x + sqrt(variance) * self._noise(rng, sample)
        return Step(x, x0)


class DDIM(Sampler):
    """Sampling with as much fresh noise as is wanted: none by default [1]_.

    Parameters
    ----------
    schedule, **options
        See `Sampler`.
    eta : float
        From 0 (deterministic) to 1 (the variance of DDPM).
    set_alpha_to_one : bool
        The last step leads to alpha_bar = 1, a clean image; otherwise to alpha_bar of timestep 0.
    use_clipped_model_output : bool
        Take the noise from the clipped x_0 and not, as diffusers does by default, from the network.

    References
    ----------
    .. [1] Song, Meng, Ermon, "Denoising diffusion implicit models", 2020, arXiv:2010.02502.
    """

    def __init__(
        self,
        schedule: NoiseSchedule | None = None,
        *,
        eta: float = 0.0,
        set_alpha_to_one: bool = True,
        use_clipped_model_output: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(schedule, **options)
        if not 0 <= eta <= 1:
            raise ValueError(f"DDIM: eta must lie in [0, 1], got {eta}")
        self.eta = eta
        self.use_clipped_model_output = use_clipped_model_output
        self.final_alpha_cumprod = 1.0 if set_alpha_to_one else float(self.schedule.alphas_cumprod[0])

    def step(
        self, model_output: Array, timestep: int, sample: Array, *, rng: Generator | None = None
    ) -> Step:
        """See `Sampler.step`."""
        a, a_prev = self._alpha_bars(timestep, final=self.final_alpha_cumprod)
        x0, eps = self._sample_and_noise(model_output, sample, a)
        if self.use_clipped_model_output:
            eps = (sample - sqrt(a) * x0) / sqrt(1 - a)
        sigma = self.eta * sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))  # eq. 16
        x = sqrt(a_prev) * x0 + sqrt(1 - a_prev - sigma**2) * eps  # eq. 12
        if sigma > 0:
            x = x + sigma * self._noise(rng, sample)
        return Step(x, x0)


SAMPLERS: dict[str, type[Sampler]] = {"ddpm": DDPM, "ddim": DDIM}


def make_sampler(name: str, schedule: NoiseSchedule, **options: Any) -> Sampler:
    """The sampler of this name: "ddpm" or "ddim".

    Raises
    ------
    ValueError
        If no sampler has the name; the message lists them.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; samplers are {list(SAMPLERS)}")
    return SAMPLERS[name](schedule, **options)
