"""Diffusion: a noise schedule, what a network predicts, samplers, guidance, and the loss it is trained with.

Four separate things, which meet only through numbers: a `NoiseSchedule` says how much noise there is at
a timestep; a prediction type says what the network's output means; a sampler says how one gets from a
timestep to an earlier one; the network knows of none of them.
"""

from minidiff.diffusion.betas import BETA_SCHEDULES
from minidiff.diffusion.draws import drop_labels, noise_like, sample_timesteps
from minidiff.diffusion.gaussian import GaussianDiffusion
from minidiff.diffusion.guidance import classifier_free_guidance
from minidiff.diffusion.loss import diffusion_loss
from minidiff.diffusion.prediction import PREDICTION_TYPES, min_snr_weight, target, to_sample_and_noise
from minidiff.diffusion.samplers import DDIM, DDPM, SAMPLERS, make_sampler
from minidiff.diffusion.sampling import sample
from minidiff.diffusion.schedule import NoiseSchedule
from minidiff.diffusion.stepping import Sampler, Step

__all__ = [
    "BETA_SCHEDULES",
    "DDIM",
    "DDPM",
    "PREDICTION_TYPES",
    "SAMPLERS",
    "GaussianDiffusion",
    "NoiseSchedule",
    "Sampler",
    "Step",
    "classifier_free_guidance",
    "diffusion_loss",
    "drop_labels",
    "make_sampler",
    "min_snr_weight",
    "noise_like",
    "sample",
    "sample_timesteps",
    "target",
    "to_sample_and_noise",
]
