"""A diffusion process as one value: what a training script, a checkpoint and a sampling script agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from minidiff.backend import Array
from minidiff.diffusion.guidance import classifier_free_guidance
from minidiff.diffusion.loss import diffusion_loss
from minidiff.diffusion.samplers import make_sampler
from minidiff.diffusion.sampling import sample
from minidiff.diffusion.schedule import NoiseSchedule
from minidiff.random import Generator

__all__ = ["GaussianDiffusion"]

# Guidance overshoots and clipping pulls back: then the noise must follow the clipped image, or digits turn to mud.
# At the last timestep of a cosine schedule sigma is 20,000: a slope from the end of a step that begins there is
# multiplied by its length, so what takes such slopes begins earlier.
_OPTIONS: dict[str, dict[str, Any]] = {
    "ddim": {"use_clipped_model_output": True},
    "heun": {"timestep_spacing": "leading"},
    "kdpm2-ancestral": {"timestep_spacing": "leading"},
}


@dataclass(frozen=True)
class GaussianDiffusion:
    """Images that fade into Gaussian noise, and the way back that a network learns [1]_.

    Parameters
    ----------
    schedule : NoiseSchedule
    prediction_type : "epsilon", "sample" or "v_prediction"
        What the network's output means.
    null_probability : float
        How often training hides a label, which guidance needs.
    min_snr_gamma : float, optional
        Weigh timesteps by min-SNR; see `diffusion_loss`.
    stratified : bool
        Spread the timesteps of a training batch evenly; see `sample_timesteps`.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    """

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    prediction_type: str = "epsilon"
    null_probability: float = 0.0
    min_snr_gamma: float | None = None
    stratified: bool = False

    def loss(
        self,
        model: Any,
        x0: Array,
        rng: Generator,
        *,
        labels: Array | None = None,
        null_label: int | None = None,
    ) -> Any:
        """The training loss on clean images (N, C, H, W) and, if they have any, their labels (N,).

        `null_label` takes the place of labels that are hidden; see `diffusion_loss`.
        """
        return diffusion_loss(
            model,
            x0,
            schedule=self.schedule,
            prediction_type=self.prediction_type,
            rng=rng,
            labels=labels,
            null_label=null_label,
            null_probability=0.0 if labels is None else self.null_probability,
            min_snr_gamma=self.min_snr_gamma,
            stratified=self.stratified,
        )

    def sample(
        self,
        model: Any,
        shape: tuple[int, ...],
        *,
        labels: Sequence[int] | None = None,
        guidance: float = 1.0,
        sampler: str = "ddim",
        steps: int = 50,
        rng: Generator,
        callback: Callable[[int, float, Array, Array], None] | None = None,
        progress: bool = False,
    ) -> Array:
        """Draw images.

        Parameters
        ----------
        model : UNet
        shape : tuple of int
            (N, C, H, W).
        labels : sequence of int, length N, optional
            Classes, for a model that has them.
        guidance : float
            Scale of classifier-free guidance; 1 is none.
        sampler : str
            A key of `SAMPLERS`.
        steps : int
        rng : Generator
            Draws all noise, and decides the device.
        callback, progress
            See `minidiff.diffusion.sample`.

        Returns
        -------
        array, shape (N, C, H, W)
            Clipped to [-1, 1].
        """
        denoise = model
        if labels is not None:
            classes = rng.backend.from_numpy(np.asarray(labels, dtype=np.int64))
            denoise = classifier_free_guidance(model, classes, model.null_label, guidance)
        method = make_sampler(
            sampler, self.schedule, prediction_type=self.prediction_type, **_OPTIONS.get(sampler, {})
        )
        return sample(denoise, shape, method, steps=steps, rng=rng, callback=callback, progress=progress)

    def describe(self) -> dict[str, Any]:
        """All fields as JSON values; of the schedule, those that say something."""
        return {**asdict(self), "schedule": self.schedule.describe()}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """What `describe` described.

        Raises
        ------
        TypeError, ValueError
            If it describes something else.
        """
        return cls(**{**description, "schedule": NoiseSchedule(**description["schedule"])})
