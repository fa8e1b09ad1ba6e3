"""The forward process: how much of an image and how much noise there is at each timestep.

A schedule is a few numbers, so that it can be written into a JSON file; everything else follows from them in
float64 on the host. There x_t = alpha_t x_0 + sigma_t noise with alpha_t = sqrt(alpha_bar_t) and
sigma_t = sqrt(1 - alpha_bar_t), so that images of variance 1 keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff import ops
from minidiff.backend import Array
from minidiff.diffusion.betas import BETA_SCHEDULES, zero_terminal_snr
from minidiff.diffusion.coefficients import Coefficient, Timesteps
from minidiff.diffusion.points import Point
from minidiff.ops.support import check_floating

__all__ = ["NoiseSchedule", "posterior_coefficients"]


def posterior_coefficients(alpha: Any, sigma: Any, alpha_prev: Any, sigma_prev: Any) -> tuple[Any, Any, Any]:
    """Of q(x_s | x_t, x_0), s < t: what x_0 and x_t count in its mean, and its variance (eq. 7 of [1]_).

    Written for any alpha and sigma, as in appendix A of [2]_.

    Parameters
    ----------
    alpha, sigma, alpha_prev, sigma_prev : float or NumPy array
        At t, and at s. Paper [1]_ writes s = t - 1; sampling in fewer steps skips timesteps.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    .. [2] Kingma, Salimans, Poole, Ho, "Variational diffusion models", 2021, arXiv:2107.00630.
    """
    step = alpha / alpha_prev
    beta = sigma**2 - step**2 * sigma_prev**2
    kept = (sigma_prev / sigma) ** 2
    return alpha_prev * beta / sigma**2, step * kept, kept * beta


@dataclass(frozen=True)
class NoiseSchedule:
    """How noise grows over the timesteps 0 ... num_train_timesteps - 1.

    Parameters
    ----------
    num_train_timesteps : int
        T, the number of timesteps the network is trained on.
    beta_schedule : str
        "linear": betas evenly spaced [1]_. "scaled_linear": their square roots evenly spaced, as in latent
        diffusion; "quadratic" is the same ("quad" in the code of [2]_). "cosine", or "squaredcos_cap_v2" in
        diffusers: alpha_bar = cos^2, offset 0.008, betas at most 0.999 (eq. 17 of [3]_). "sigmoid": betas
        along the logistic function from -6 to 6. "laplace" and "exp": along the curves of diffusers.
    beta_start, beta_end : float
        The first and the last beta, 0 < beta_start <= beta_end < 1; schedules along a curve do not use them,
        and the sigmoid comes within 0.25 % of their difference.
    trained_betas : sequence of float, optional
        The T betas themselves, above 0 and below 1 (the last one may be 1), in place of a name and two numbers.
    rescale_betas_zero_snr : bool
        Shift the noise so that nothing is left of the image at the last timestep [4]_.

    Attributes
    ----------
    betas, alphas, alphas_cumprod : (T,) float64 NumPy arrays, read-only
        beta_t, 1 - beta_t, and alpha_bar_t, the product of the alphas up to t.

    Raises
    ------
    ValueError
        If a number is out of its range, or no schedule has the name.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    .. [2] Song, Meng, Ermon, "Denoising diffusion implicit models", 2021, arXiv:2010.02502.
    .. [3] Nichol, Dhariwal, "Improved denoising diffusion probabilistic models", 2021, arXiv:2102.09672.
    .. [4] Lin, Liu, Li, Yang, "Common diffusion noise schedules and sample steps are flawed", 2023,
       arXiv:2305.08891, algorithm 1.

    Examples
    --------
    >>> schedule = NoiseSchedule(beta_schedule="cosine")
    >>> round(schedule.alpha(500), 3), round(schedule.sigma(500), 3)
    (0.702, 0.713)
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    trained_betas: Sequence[float] | None = None
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        total = self.num_train_timesteps
        if not isinstance(total, int) or total < 1:
            raise ValueError(f"NoiseSchedule: num_train_timesteps must be an integer from 1, got {total!r}")
        if self.beta_schedule not in BETA_SCHEDULES:
            raise ValueError(
                f"NoiseSchedule: unknown beta_schedule {self.beta_schedule!r}; there are {list(BETA_SCHEDULES)}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"NoiseSchedule: betas must satisfy 0 < beta_start <= beta_end < 1, "
                f"got beta_start={self.beta_start}, beta_end={self.beta_end}"
            )
        if self.rescale_betas_zero_snr and total < 2:
            raise ValueError("NoiseSchedule: rescale_betas_zero_snr needs 2 timesteps or more, got 1")
        if self.trained_betas is not None:
            object.__setattr__(self, "trained_betas", _checked_betas(self.trained_betas, total))

    @cached_property
    def betas(self) -> NDArray[np.float64]:
        """Variance of the noise that step t adds (eq. 2 of Ho et al.)."""
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, dtype=np.float64)
        else:
            make = BETA_SCHEDULES[self.beta_schedule]
            betas = make(self.num_train_timesteps, self.beta_start, self.beta_end)
        return _frozen(zero_terminal_snr(betas) if self.rescale_betas_zero_snr else betas)

    @cached_property
    def alphas(self) -> NDArray[np.float64]:
        """1 - betas."""
        return _frozen(1.0 - self.betas)

    @cached_property
    def alphas_cumprod(self) -> NDArray[np.float64]:
        """alpha_bar: the variance that is left of an image of variance 1 (eq. 4 of Ho et al.)."""
        return _frozen(np.cumprod(self.alphas))

    @cached_property
    def ratios(self) -> NDArray[np.float64]:
        """sigma_t / alpha_t, (T,), growing: the noise levels of samplers that leave the image at its full size.

        Where nothing is left of the image, alpha_bar is taken as 2^-24, as in diffusers: a ratio of 4096.
        """
        alpha_bar = np.where(self.alphas_cumprod > 0, self.alphas_cumprod, 2.0**-24)
        return _frozen(np.sqrt((1 - alpha_bar) / alpha_bar))

    def describe(self) -> dict[str, Any]:
        """The fields as JSON values. Later ones only where they are used, so that runs from before them go on."""
        return {key: value for key, value in asdict(self).items() if value is not None and value is not False}

    def point(self, t: int) -> Point:
        """Alpha and sigma of timestep t as a `Point`.

        Raises
        ------
        IndexError
            If t is outside 0 ... T - 1.
        """
        return Point(self.alpha(t), self.sigma(t), t)

    def alpha(self, t: Timesteps, like: Array = None) -> Any:
        """What the image counts at timestep t: sqrt(alpha_bar_t).

        Parameters
        ----------
        t : int, list of ints, or array of integers, shape (N,)
        like : array, shape (N, ...), optional
            Images to multiply with.

        Returns
        -------
        float or array
            A float for an int. Otherwise an array (N,) of the library of `t`; with `like`, an array of its
            library, dtype and number of axes: (N, 1, 1, 1).

        Raises
        ------
        IndexError
            If a timestep on the host is outside 0 ... T - 1. (On another device nobody looks: it would wait.)
        """
        return self._coefficients["alpha"](t, like)

    def sigma(self, t: Timesteps, like: Array = None) -> Any:
        """What the noise counts at timestep t: sqrt(1 - alpha_bar_t). Arguments as for `alpha`."""
        return self._coefficients["sigma"](t, like)

    def snr(self, t: Timesteps, like: Array = None) -> Any:
        """Signal-to-noise ratio (alpha_t / sigma_t)^2. Arguments as for `alpha`."""
        return self._coefficients["snr"](t, like)

    def add_noise(self, x0: Array, noise: Array, timesteps: Timesteps) -> Array:
        """The forward process, x_t ~ q(x_t | x_0) (eq. 4 of [1]_).

        Parameters
        ----------
        x0, noise : array, shape (N, C, H, W)
            Images, and standard normal noise of their dtype.
        timesteps : int, list of ints, or array of integers, shape (N,)

        Returns
        -------
        array, shape (N, C, H, W)

        Raises
        ------
        ValueError
            If the shapes, or the numbers of images and timesteps, differ.
        TypeError
            If the dtypes differ or are not floating.
        IndexError
            If a timestep on the host is outside 0 ... T - 1.

        References
        ----------
        .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
        """
        _check_pair("add_noise", x0=x0, noise=noise)
        return _mix(self.alpha(timesteps, x0), x0, self.sigma(timesteps, x0), noise)

    def get_velocity(self, x0: Array, noise: Array, timesteps: Timesteps) -> Array:
        """The "v_prediction" target, alpha_t noise - sigma_t x_0 [1]_. Arguments as for `add_noise`.

        References
        ----------
        .. [1] Salimans, Ho, "Progressive distillation for fast sampling of diffusion models", 2022,
           arXiv:2202.00512, appendix D.
        """
        _check_pair("get_velocity", x0=x0, noise=noise)
        return _mix(self.alpha(timesteps, x0), noise, -self.sigma(timesteps, x0), x0)

    def posterior(self, x0: Array, x_t: Array, t: Timesteps) -> tuple[Array, Any]:
        """Mean and variance of q(x_{t-1} | x_t, x_0) (eq. 6 and 7 of [1]_).

        Parameters
        ----------
        x0, x_t : array, shape (N, C, H, W)
        t : int, list of ints, or array of integers, shape (N,)

        Returns
        -------
        mean : array, shape (N, C, H, W)
        variance : float, or array, shape (N, 1, 1, 1)
            0 at t = 0, where the mean is x_0.

        References
        ----------
        .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
        """
        _check_pair("posterior", x0=x0, x_t=x_t)
        of_x0, of_xt, variance = (
            self._coefficients[f"posterior_{part}"](t, x0) for part in ("x0", "xt", "var")
        )
        return _mix(of_x0, x0, of_xt, x_t), variance

    @cached_property
    def _coefficients(self) -> dict[str, Coefficient]:
        a = self.alphas_cumprod
        alpha, sigma = np.sqrt(a), np.sqrt(1 - a)
        before = np.concatenate([[1.0], alpha[:-1]]), np.concatenate([[0.0], sigma[:-1]])
        of_x0, of_xt, variance = posterior_coefficients(alpha, sigma, *before)
        values = {"alpha": alpha, "sigma": sigma, "snr": a / (1 - a)}
        values |= {"posterior_x0": of_x0, "posterior_xt": of_xt, "posterior_var": variance}
        return {name: Coefficient(v) for name, v in values.items()}


def _frozen(x: NDArray[Any]) -> NDArray[np.float64]:
    x.setflags(write=False)
    return x


def _checked_betas(betas: Sequence[float], total: int) -> tuple[float, ...]:
    values = tuple(float(beta) for beta in betas)
    if len(values) != total or not all(0 < beta < 1 for beta in values[:-1]) or not 0 < values[-1] <= 1:
        raise ValueError(
            f"NoiseSchedule: trained_betas must be num_train_timesteps={total} numbers above 0 and below 1, of which "
            f"only the last may be 1, got {len(values)} from {min(values, default=None)} to {max(values, default=None)}"
        )
    return values


def _check_pair(name: str, **arrays: Array) -> None:
    check_floating(name, **arrays)
    shapes = {key: tuple(x.shape) for key, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{name}: " + ", ".join(f"{key} has shape {shape}" for key, shape in shapes.items()))


def _mix(a: Any, x: Array, b: Any, y: Array) -> Array:
    """`a x + b y`, for arrays and tensors."""
    return ops.add(ops.multiply(x, a), ops.multiply(y, b))
