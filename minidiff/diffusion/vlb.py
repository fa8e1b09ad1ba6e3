"""The variational bound on the likelihood of images, term by term, and networks that also learn the variance.

A network with twice as many output channels as the image has says, in the second half, where between its two limits
the variance of each step lies. The simple loss tells it nothing about that; the bound does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from minidiff import ops
from minidiff.autodiff import stop_gradient
from minidiff.backend import Array
from minidiff.diffusion.coefficients import Coefficient
from minidiff.diffusion.draws import noise_like, sample_timesteps
from minidiff.diffusion.loss import conditioned
from minidiff.diffusion.prediction import target, to_sample_and_noise
from minidiff.diffusion.schedule import NoiseSchedule
from minidiff.ops.support import is_half
from minidiff.random import Generator

__all__ = ["Bound", "VariationalBound", "discretized_gaussian_log_likelihood", "normal_kl"]

OBJECTIVES = ("hybrid", "vlb")
VARIANCES = ("learned_range", "fixed_small", "fixed_large")
LEAST_LIKELIHOOD = 1e-12  # of a level, so that its logarithm is finite


def normal_kl(mean1: Any, log_variance1: Any, mean2: Any, log_variance2: Any) -> Any:
    """Kullback-Leibler divergence of two normal distributions, of the first from the second, in nats, element-wise."""
    scaled = ops.square(ops.subtract(mean1, mean2)) * ops.exp(ops.negative(log_variance2))
    difference = ops.subtract(log_variance2, log_variance1)
    return 0.5 * (scaled + ops.exp(ops.negative(difference)) + difference - 1.0)


def discretized_gaussian_log_likelihood(x: Array, mean: Any, log_variance: Any, *, levels: int = 256) -> Any:
    """Logarithm of the probability that a normal distribution gives to the levels of pixels (eq. 13 of [1]_).

    Parameters
    ----------
    x : array, any shape
        Levels, evenly spaced from -1 to 1. The lowest and highest have all that lies beyond them.
    mean, log_variance : array of that shape
    levels : int
        How many there are.

    Returns
    -------
    array or Tensor of that shape
        In nats; at least ln(1e-12).

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    """
    half = 1 / (levels - 1)
    scale = ops.exp(-0.5 * log_variance) * math.sqrt(0.5)
    centred = ops.subtract(x, mean)
    below = 0.5 + 0.5 * ops.erf((centred - half) * scale)
    above = 0.5 + 0.5 * ops.erf((centred + half) * scale)
    inside = ops.where(x > 1 - half, 1 - below, ops.where(x < half - 1, above, above - below))
    return ops.log(ops.clip(inside, LEAST_LIKELIHOOD, None))


@dataclass(frozen=True, eq=False)
class Bound:
    """The bound for each image, in bits for each number in it (bits per dimension).

    Attributes
    ----------
    total : array, shape (N,)
        The sum of all that follows: no image can cost fewer bits on average than its true likelihood says.
    prior : array, shape (N,)
        What is left of the image at the last timestep.
    terms : array, shape (N, T)
        One for each timestep; the first is the likelihood of the pixels' levels, the others divergences.
    """

    total: Array
    prior: Array
    terms: Array


@dataclass(frozen=True)
class VariationalBound:
    """The bound, and the losses that train on it [1]_.

    Parameters
    ----------
    schedule : NoiseSchedule
        At least two timesteps.
    prediction_type : "epsilon", "sample" or "v_prediction"
    variance_type : "learned_range", "fixed_small" or "fixed_large"
        Learned: the model has 2C output channels, the last C of which go from -1 (the posterior's variance) to 1
        (beta), in logarithms (eq. 15).
    objective : "hybrid" or "vlb"
        Hybrid: the squared error of the prediction plus `vlb_weight` times the bound, from which only the variance
        learns (eq. 16); or the bound alone.
    vlb_weight : float
        lambda in the paper.
    null_probability : float
        How often training hides a label, which guidance needs.

    Raises
    ------
    ValueError
        If a name is unknown.

    References
    ----------
    .. [1] Nichol, Dhariwal, "Improved denoising diffusion probabilistic models", 2021, arXiv:2102.09672.
    """

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    prediction_type: str = "epsilon"
    variance_type: str = "learned_range"
    objective: str = "hybrid"
    vlb_weight: float = 0.001
    null_probability: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("variance_type", VARIANCES), ("objective", OBJECTIVES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"VariationalBound: {name} must be one of {list(known)}, got {getattr(self, name)!r}"
                )
        if self.schedule.num_train_timesteps < 2:
            raise ValueError("VariationalBound: the schedule has one timestep, at least 2 are needed")

    def loss(
        self,
        model: Any,
        x0: Array,
        rng: Generator,
        *,
        labels: Array | None = None,
        null_label: int | None = None,
    ) -> Any:
        """The mean of `losses` at timesteps drawn at random, a scalar; arguments as for `GaussianDiffusion.loss`."""
        t = sample_timesteps(rng, x0.shape[0], self.schedule.num_train_timesteps)
        return ops.mean(self.losses(model, x0, t, rng, labels=labels, null_label=null_label))

    def describe(self) -> dict[str, Any]:
        """All fields as JSON values; of the schedule, those that say something."""
        return {**asdict(self), "schedule": self.schedule.describe()}

    def losses(
        self,
        model: Any,
        x0: Array,
        t: Array,
        rng: Generator,
        *,
        labels: Array | None = None,
        null_label: int | None = None,
    ) -> Any:
        """The loss of each image at its timestep; what `LossSecondMoment` weighs and is told.

        Parameters
        ----------
        model : callable
            `model(x_t, t)`, or with `labels=labels`. With dropout, see `diffusion_loss`.
        x0 : array, shape (N, C, H, W)
            Of 256 levels from -1 to 1.
        t : array of integers, shape (N,)
        rng : Generator
            Draws noise, hidden labels, then dropout.
        labels, null_label
            As for `GaussianDiffusion.loss`.

        Returns
        -------
        array or Tensor, shape (N,)
            Its mean over t is the objective: the bound is the sum of T terms, and so each counts T times.
        """
        noise = noise_like(rng, x0)
        predict = conditioned(
            model, rng, labels, null_label, 0.0 if labels is None else self.null_probability
        )
        x_t = self.schedule.add_noise(x0, noise, t)
        output = predict(x_t, t)
        total = self.schedule.num_train_timesteps
        if self.objective == "vlb":
            return self.terms(output, x0, x_t, t) * total
        y, v = self._split(output, x0)
        wanted = target(
            self.prediction_type, x0, noise, self.schedule.alpha(t, x0), self.schedule.sigma(t, x0)
        )
        simple = _per_image_mean(ops.mse_loss(y, wanted, reduction="none"))
        if v is None:
            return simple
        variance_only = ops.concat([stop_gradient(y), v], axis=1)
        return simple + self.terms(variance_only, x0, x_t, t) * (self.vlb_weight * total)

    def terms(self, output: Any, x0: Array, x_t: Array, t: Array, *, clip: bool = False) -> Any:
        """L_t of each image (eq. 4 to 6), in bits per dimension.

        Parameters
        ----------
        output : array or Tensor, shape (N, C, H, W), or (N, 2C, H, W) if the variance is learned
            What the model said of `x_t`.
        x0, x_t : array, shape (N, C, H, W)
        t : array of integers, shape (N,)
        clip : bool
            Limit the predicted clean image to [-1, 1].

        Returns
        -------
        array or Tensor, shape (N,)
        """
        output, x0, x_t = (_wide(x) for x in (output, x0, x_t))
        y, v = self._split(output, x0)
        schedule = self.schedule
        x0_hat, _ = to_sample_and_noise(
            self.prediction_type, y, x_t, schedule.alpha(t, x0), schedule.sigma(t, x0)
        )
        if clip:
            x0_hat = ops.clip(x0_hat, -1.0, 1.0)
        mean, _ = schedule.posterior(x0_hat, x_t, t)
        log_variance = self._log_variance(v, x0, t)
        true_mean, _ = schedule.posterior(x0, x_t, t)
        kl = normal_kl(true_mean, self._limits["fixed_small"](t, x0), mean, log_variance)
        decoder = ops.negative(discretized_gaussian_log_likelihood(x0, mean, log_variance))
        first = ops.equal(ops.reshape(t, (-1,)), 0)
        return ops.where(first, _per_image_mean(decoder), _per_image_mean(kl)) / math.log(2)

    def prior(self, x0: Array) -> Array:
        """KL of q(x_T | x_0) from pure noise, in bits per dimension, shape (N,)."""
        x0 = _wide(x0)
        last = self.schedule.num_train_timesteps - 1
        log_variance = 2 * math.log(self.schedule.sigma(last))
        kl = normal_kl(
            self.schedule.alpha(last) * x0, ops.full_like(x0, log_variance), 0.0, ops.zeros_like(x0)
        )
        return _per_image_mean(kl) / math.log(2)

    def bound(
        self, model: Callable[[Array, Array], Any], x0: Array, rng: Generator, *, clip: bool = True
    ) -> Bound:
        """The bound of each image with fresh noise at every timestep: T calls of `model(x_t, t)`."""
        terms = []
        for step in range(self.schedule.num_train_timesteps):
            t = ops.full_like(ops.astype(x0[:, 0, 0, 0], ops.int64), step)
            x_t = self.schedule.add_noise(x0, noise_like(rng, x0), t)
            terms.append(self.terms(model(x_t, t), x0, x_t, t, clip=clip))
        each, prior = ops.stack(terms, axis=1), self.prior(x0)
        return Bound(ops.sum(each, axis=1) + prior, prior, each)

    def _split(self, output: Any, x0: Array) -> tuple[Any, Any]:
        """The prediction, and what says the variance, None if nothing does."""
        channels, learned = x0.shape[1], self.variance_type == "learned_range"
        expected = 2 * channels if learned else channels
        if output.shape[1] != expected:
            raise ValueError(
                f"VariationalBound: with variance_type={self.variance_type!r} a model of {channels}-channel images "
                f"must return {expected} channels, got {output.shape[1]}"
            )
        return (output[:, :channels, ...], output[:, channels:, ...]) if learned else (output, None)

    def _log_variance(self, v: Any, x0: Array, t: Array) -> Any:
        if v is None:
            return ops.broadcast_to(self._limits[self.variance_type](t, x0), tuple(x0.shape))
        low, high = self._limits["fixed_small"](t, x0), self._limits["beta"](t, x0)
        share = (v + 1) * 0.5
        return share * (high - low) + low

    @cached_property
    def _limits(self) -> dict[str, Coefficient]:
        """Logarithms of variances; that of the posterior is 0 at t = 0, where the next one takes its place."""
        a, betas = self.schedule.alphas_cumprod, self.schedule.betas
        posterior = betas[1:] * (1 - a[:-1]) / (1 - a[1:])
        small = np.concatenate([posterior[:1], posterior])
        variances = {
            "fixed_small": small,
            "fixed_large": np.concatenate([posterior[:1], betas[1:]]),
            "beta": betas,
        }
        return {name: Coefficient(np.log(values)) for name, values in variances.items()}


def _wide(x: Any) -> Any:
    """Logarithms and quotients of variances need float32."""
    return ops.astype(x, ops.float32) if is_half(x) else x


def _per_image_mean(x: Any) -> Any:
    return ops.mean(x, axis=tuple(range(1, len(x.shape))))
