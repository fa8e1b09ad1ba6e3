"""Diffusion: a noise schedule, what a network predicts, samplers, guidance, and the loss it is trained with.

Four separate things, which meet only through numbers: a `NoiseSchedule` says how much noise there is at
a timestep; a prediction type says what the network's output means; a sampler says how one gets from a
timestep to an earlier one; the network knows of none of them.
"""

from minidiff.diffusion.betas import BETA_SCHEDULES
from minidiff.diffusion.draws import drop_labels, noise_like, sample_timesteps
from minidiff.diffusion.edm import EDM
from minidiff.diffusion.flow import FlowMatching
from minidiff.diffusion.gaussian import GaussianDiffusion
from minidiff.diffusion.guidance import classifier_free_guidance
from minidiff.diffusion.importance import LossSecondMoment
from minidiff.diffusion.loss import diffusion_loss
from minidiff.diffusion.points import Point
from minidiff.diffusion.prediction import PREDICTION_TYPES, min_snr_weight, target, to_sample_and_noise
from minidiff.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    KDPM2,
    LCM,
    LMS,
    PNDM,
    SAMPLER_FAMILIES,
    SAMPLERS,
    DDIMInverse,
    DiscreteSampler,
    DPMSolverMultistep,
    DPMSolverSDE,
    DPMSolverSinglestep,
    EDMDPMSolverMultistep,
    EDMEuler,
    EDMHeun,
    Euler,
    EulerAncestral,
    FlowMatchEuler,
    FlowMatchHeun,
    Heun,
    KDPM2Ancestral,
    Sampler,
    Step,
    UniPC,
    make_sampler,
    samplers_like,
)
from minidiff.diffusion.sampling import sample
from minidiff.diffusion.schedule import NoiseSchedule
from minidiff.diffusion.vlb import VariationalBound

__all__ = [
    "BETA_SCHEDULES",
    "DDIM",
    "DDPM",
    "DEIS",
    "EDM",
    "KDPM2",
    "LCM",
    "LMS",
    "PNDM",
    "PREDICTION_TYPES",
    "SAMPLERS",
    "SAMPLER_FAMILIES",
    "DDIMInverse",
    "DPMSolverMultistep",
    "DPMSolverSDE",
    "DPMSolverSinglestep",
    "DiscreteSampler",
    "EDMDPMSolverMultistep",
    "EDMEuler",
    "EDMHeun",
    "Euler",
    "EulerAncestral",
    "FlowMatchEuler",
    "FlowMatchHeun",
    "FlowMatching",
    "GaussianDiffusion",
    "Heun",
    "KDPM2Ancestral",
    "LossSecondMoment",
    "NoiseSchedule",
    "Point",
    "Sampler",
    "Step",
    "UniPC",
    "VariationalBound",
    "classifier_free_guidance",
    "diffusion_loss",
    "drop_labels",
    "make_sampler",
    "min_snr_weight",
    "noise_like",
    "sample",
    "sample_timesteps",
    "samplers_like",
    "target",
    "to_sample_and_noise",
]
