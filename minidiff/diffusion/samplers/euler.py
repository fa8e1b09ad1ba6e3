"""Euler's method, along the deterministic path or with fresh noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.ddim import towards
from minidiff.diffusion.samplers.discrete import SigmaSampler
from minidiff.diffusion.samplers.sampler import Draw, Sampler, Step, mix
from minidiff.diffusion.samplers.spacing import family_of

__all__ = ["Churn", "Euler", "EulerAncestral", "down_and_up"]


def down_and_up(sigma: float, following: float) -> tuple[float, float]:
    """How far to go down, and how much fresh noise leads up again to the following sigma.

    Together they are the posterior of one step, so that the result is distributed as DDPM's.
    """
    return following**2 / sigma, following * sqrt(sigma**2 - following**2) / sigma


@dataclass(kw_only=True, eq=False, repr=False)
class Churn(Sampler):
    """Options of the samplers that raise the noise a little before a step (algorithm 2 of [1]_).

    Parameters
    ----------
    s_churn : float
        How much, over the whole run; 0 is none.
    s_tmin, s_tmax : float
        Between which sigmas.
    s_noise : float
        Standard deviation of the noise that raises it.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = inf
    s_noise: float = 1.0

    def _raised(self, sigma: float, steps: int) -> float:
        """sigma_hat: what sigma becomes in one of so many steps."""
        inside = self.s_tmin <= sigma <= self.s_tmax
        return sigma * (1 + (min(self.s_churn / steps, sqrt(2) - 1) if inside else 0.0))

    def _churned(self, x: Array, sigma: float, steps: int, draw: Draw) -> tuple[Array, float]:
        raised = self._raised(sigma, steps)
        if raised > sigma:
            x = mix((1.0, x), (self.s_noise * sqrt(raised**2 - sigma**2), draw()))
        return x, raised


@dataclass(kw_only=True, eq=False, repr=False)
class Euler(Churn, SigmaSampler):
    """Euler's method in sigma [1]_: DDIM without fresh noise, seen at an image of full size.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    s_churn, s_tmin, s_tmax, s_noise : float
        See `Churn`. As in diffusers, the network has seen the image before the noise was raised.
    interpolation_type : "linear" or "log_linear"
        Sigmas at the timesteps; or evenly spaced logarithms, which end at the lowest sigma of training.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Place the sigmas along a curve; see `SIGMA_FAMILIES`.
    sigma_min, sigma_max : float, optional
        Ends of that curve; by default the lowest and highest sigma of the timesteps.
    timestep_type : "discrete" or "continuous"
        "continuous" with "v_prediction": the network is given ln(sigma) / 4 as its time.
    final_sigmas_type : "zero" or "sigma_min"
        Where the last step leads: to the clean image, or to the noise of timestep 0.
    rescale_betas_zero_snr : bool
        See `NoiseSchedule`.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364, algorithm 2 without lines 7 and 8.
    """

    diffusers_name: ClassVar[str] = "EulerDiscreteScheduler"

    interpolation_type: str = "linear"
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_type: str = "discrete"
    final_sigmas_type: str = "zero"
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, known in {
            "interpolation_type": ("linear", "log_linear"),
            "timestep_type": ("discrete", "continuous"),
            "final_sigmas_type": ("zero", "sigma_min"),
        }.items():
            if getattr(self, option) not in known:
                raise ValueError(f"Euler: {option} must be one of {known}, got {getattr(self, option)!r}")

    def _points(self, timesteps: NDArray[np.float64]) -> list[Point]:
        points = super()._points(timesteps)
        if self.timestep_type == "continuous" and self.prediction_type == "v_prediction":
            points[:-1] = [Point(1.0, p.sigma, float(np.float32(log(p.sigma) / 4))) for p in points[:-1]]
        if self.interpolation_type == "log_linear" and family_of(self) is None:
            ratios = self.schedule.ratios
            sigmas = np.exp(np.linspace(np.log(ratios[-1]), np.log(ratios[0]), len(points)))
            points = [Point(1.0, float(s), p.timestep) for s, p in zip(sigmas, points, strict=True)]
        return points

    def _ends(self, sigmas: NDArray[np.float64]) -> tuple[float, float]:
        low, high = super()._ends(sigmas)
        low = low if self.sigma_min is None else self.sigma_min
        high = high if self.sigma_max is None else self.sigma_max
        if not 0 < low <= high:
            raise ValueError(
                f"{self!r}: sigmas must satisfy 0 < sigma_min <= sigma_max, got {low} and {high}"
            )
        return low, high

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x, sigma_hat = self._churned(x, here.sigma, len(self.timesteps), draw)
        hat = Point(1.0, sigma_hat)
        x0 = self._x0(y, x, here if self.prediction_type == "v_prediction" else hat)
        return Step(towards(x, x0, hat, there), x0)


@dataclass(kw_only=True, eq=False, repr=False)
class EulerAncestral(SigmaSampler):
    """Euler's method to a lower sigma, and fresh noise up to the following one: DDPM at an image of full size.

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`.
    rescale_betas_zero_snr : bool
        See `NoiseSchedule`.
    """

    diffusers_name: ClassVar[str] = "EulerAncestralDiscreteScheduler"

    rescale_betas_zero_snr: bool = False

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x0 = self._x0(y, x, here)
        down, up = down_and_up(here.sigma, there.sigma)
        fresh = [(up, draw())] if up > 0 else []
        return Step(towards(x, x0, here, Point(1.0, down), *fresh), x0)
