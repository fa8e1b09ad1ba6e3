"""The loss that a network is trained with: it sees noisy images and is asked for the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from minidiff import ops
from minidiff.backend import Array
from minidiff.diffusion.draws import drop_labels, noise_like, sample_timesteps
from minidiff.diffusion.prediction import min_snr_weight, target
from minidiff.diffusion.schedule import NoiseSchedule
from minidiff.random import Generator

__all__ = ["conditioned", "diffusion_loss"]


def diffusion_loss(
    model: Callable[..., Any],
    x0: Array,
    *,
    schedule: NoiseSchedule,
    prediction_type: str,
    rng: Generator,
    labels: Array = None,
    null_label: int | None = None,
    null_probability: float = 0.0,
    min_snr_gamma: float | None = None,
    stratified: bool = False,
) -> Any:
    """Squared error of the prediction at timesteps drawn at random (algorithm 1 and eq. 14 of [1]_).

    Parameters
    ----------
    model : callable
        `model(x_t, t)`, or `model(x_t, t, labels=labels)`, returns an array like `x_t`. It is given `rng=`, too, if
        its `config` says that it has dropout.
    x0 : array, shape (N, C, H, W)
        Clean images, on the model's device.
    schedule : NoiseSchedule
    prediction_type : "epsilon", "sample" or "v_prediction"
        What the model's output means.
    rng : Generator
        Draws timesteps, noise, dropped labels, then dropout, on the model's device.
    labels : array of integers, shape (N,), optional
    null_label : int, optional
        The class that stands for "any".
    null_probability : float
        How often a label is replaced by `null_label` [2]_.
    min_snr_gamma : float, optional
        Weigh timesteps by min-SNR with this gamma [3]_; by default all weigh the same.
    stratified : bool
        Spread the timesteps of a batch evenly; see `sample_timesteps`.

    Returns
    -------
    array or Tensor, shape ()
        The mean over all elements, in float32 at least.

    Raises
    ------
    ValueError
        If labels should be dropped, but there are none, or no `null_label`.
    TypeError
        If `rng` draws on another device than that of `x0`.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    .. [2] Ho, Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
    .. [3] Hang et al., "Efficient diffusion training via min-SNR weighting strategy", 2023, arXiv:2303.09556.
    """
    t = sample_timesteps(rng, x0.shape[0], schedule.num_train_timesteps, stratified=stratified)
    noise = noise_like(rng, x0)
    denoise = conditioned(model, rng, labels, null_label, null_probability)
    x_t = schedule.add_noise(x0, noise, t)
    wanted = target(prediction_type, x0, noise, schedule.alpha(t, x0), schedule.sigma(t, x0))
    output = denoise(x_t, t)
    if min_snr_gamma is None:
        return ops.mse_loss(output, wanted)
    errors = ops.mse_loss(output, wanted, reduction="none")
    return ops.mean(errors * min_snr_weight(prediction_type, schedule.snr(t, errors), min_snr_gamma))


def conditioned(
    model: Callable[..., Any],
    rng: Generator,
    labels: Array | None,
    null_label: int | None,
    null_probability: float,
) -> Callable[[Array, Array], Any]:
    """`model` as a function of (x, t) in training: with labels, some of which are hidden, and dropout if it has any.

    A network with dropout is one whose `config`, as that of `UNet2DModel`, has "dropout" above 0; it takes `rng=`.

    Raises
    ------
    ValueError
        If labels should be dropped, but there are none, or no `null_label`.
    """
    if null_probability:
        if labels is None or null_label is None:
            raise ValueError(
                f"null_probability={null_probability} needs labels and a null_label, "
                f"got null_label={null_label}" + (" and no labels" if labels is None else "")
            )
        labels = drop_labels(rng, labels, null_label, null_probability)
    given: dict[str, Any] = {} if labels is None else {"labels": labels}
    config = getattr(model, "config", None)
    if isinstance(config, Mapping) and config.get("dropout"):
        given["rng"] = rng
    return partial(model, **given) if given else model
