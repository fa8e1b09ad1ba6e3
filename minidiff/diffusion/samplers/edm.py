"""Samplers for networks with the preconditioning of EDM, which know no timesteps, only sigmas."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import ClassVar

import numpy as np

from minidiff.backend import Array
from minidiff.diffusion.edm import EDM
from minidiff.diffusion.points import CLEAN, Point
from minidiff.diffusion.samplers.ddim import towards
from minidiff.diffusion.samplers.euler import Churn
from minidiff.diffusion.samplers.heun import along, slope
from minidiff.diffusion.samplers.sampler import Draw, Sampler, Step, mix
from minidiff.diffusion.samplers.spacing import SIGMA_FAMILIES, karras

__all__ = ["EDMEuler", "EDMHeun", "EDMSampler"]

SIGNS = {"epsilon": 1.0, "v_prediction": -1.0}  # of c_out


@dataclass(kw_only=True, eq=False, repr=False)
class EDMSampler(Sampler):
    """Options of the samplers for a network F with x_0 = c_skip x + c_out F(c_in x; ln(sigma) / 4) [1]_.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Lowest and highest noise.
    sigma_data : float
        Standard deviation of the images, which the preconditioning depends on.
    sigma_schedule : "karras" or "exponential"
        How the sigmas lie between (eq. 5 of [1]_), or evenly in ln(sigma).
    rho : float
        Of "karras": the higher, the more steps at low noise.
    prediction_type : "epsilon" or "v_prediction"
        EDM's own sign of c_out, or the opposite one.
    final_sigmas_type : "zero" or "sigma_min"
        Where the last step leads.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    sigma_schedule: str = "karras"
    rho: float = 7.0
    prediction_type: str = "epsilon"
    final_sigmas_type: str = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        for option, known in {
            "sigma_schedule": ("karras", "exponential"),
            "prediction_type": tuple(SIGNS),
            "final_sigmas_type": ("zero", "sigma_min"),
        }.items():
            if getattr(self, option) not in known:
                raise ValueError(f"{name}: {option} must be one of {known}, got {getattr(self, option)!r}")
        if not 0 < self.sigma_min < self.sigma_max or not self.rho > 0:
            raise ValueError(
                f"{name}: 0 < sigma_min < sigma_max and rho > 0 are needed, "
                f"got {self.sigma_min}, {self.sigma_max} and {self.rho}"
            )
        self._edm = EDM(sigma_data=self.sigma_data)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise that sampling begins with: that of an image with the highest sigma."""
        return sqrt(self.sigma_max**2 + 1)

    def scale_model_input(self, sample: Array, timestep: float) -> Array:
        """c_in `sample`."""
        return mix((self._edm.scalings(self.points[self._index(timestep)].sigma)[2], sample))

    def _sigmas(self, n: int) -> list[float]:
        if n < 1:
            raise ValueError(f"{self!r}: the number of steps must be at least 1, got {n}")
        family = karras(self.rho) if self.sigma_schedule == "karras" else SIGMA_FAMILIES["exponential"]
        return [float(s) for s in family(self.sigma_min, self.sigma_max, n)]

    def _plan(self, n: int) -> list[Point]:
        points = [_point(sigma) for sigma in self._sigmas(n)]
        return [*points, CLEAN if self.final_sigmas_type == "zero" else points[-1]]

    def _part(self, name: str, y: Array, x: Array, point: Point) -> Array:
        c_skip, c_out, _ = self._edm.scalings(point.sigma)
        return mix((SIGNS[self.prediction_type] * c_out, y), (c_skip, x))


@dataclass(kw_only=True, eq=False, repr=False)
class EDMEuler(Churn, EDMSampler):
    """Euler's method [1]_.

    Parameters
    ----------
    **options
        See `EDMSampler`.
    s_churn, s_tmin, s_tmax, s_noise : float
        See `Churn`. As in diffusers, the network has seen the image before the noise was raised.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364.
    """

    diffusers_name: ClassVar[str] = "EDMEulerScheduler"

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x, sigma_hat = self._churned(x, here.sigma, len(self.timesteps), draw)
        hat = Point(1.0, sigma_hat)
        x0 = self._x0(y, x, hat)
        return Step(towards(x, x0, hat, there), x0)


@dataclass(kw_only=True, eq=False, repr=False)
class EDMHeun(EDMEuler):
    """Heun's method with churn, as the paper has it: the network sees the image after the noise was raised [1]_.

    n steps ask the network 2 n - 1 times, and `timesteps` is as long. The noise that raises an image is added at the
    end of the step before, and to the first image by whoever draws it: `init_noise_sigma` tells how much.

    Parameters
    ----------
    **options
        See `EDMEuler`.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364, algorithm 2.
    """

    diffusers_name: ClassVar[str] = "EDMHeun"  # diffusers has none
    calls_per_step: ClassVar[int] = 2

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise that sampling begins with."""
        return self.points[0].sigma if self.points else self.sigma_max

    def _plan(self, n: int) -> list[Point]:
        sigmas = self._sigmas(n)
        raised = [self._raised(sigma, n) for sigma in sigmas]
        inner = [p for s, hat in zip(sigmas[1:], raised[1:], strict=True) for p in (_point(s), _point(hat))]
        last = CLEAN if self.final_sigmas_type == "zero" else _point(sigmas[-1])
        return [_point(raised[0]), *inner, last]

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x0 = self._x0(y, x, here)
        if not self.history:
            self.history = [(x, slope(x, x0, here.sigma))]
            return Step(towards(x, x0, here, there), x0)
        before, d = self.history.pop()
        half = (here.sigma - self.points[i - 1].sigma) / 2
        fresh = []
        if there.sigma > here.sigma:
            fresh = [(self.s_noise * sqrt(there.sigma**2 - here.sigma**2), draw())]
        return Step(along(before, half, x, x0, here.sigma, (half, d), *fresh), x0)


def _point(sigma: float) -> Point:
    return Point(1.0, sigma, float(np.float32(log(sigma) / 4)))
