"""Samplers: one small core, and a short class for each method with the options and the numbers of diffusers.

A schedule is a list of `Point`s (alpha, sigma, timestep); a sampler goes from one to the next, and what it makes of
images and noise are sums whose coefficients are Python floats.
"""

from minidiff.diffusion.samplers.ddim import DDIM, DDIMInverse
from minidiff.diffusion.samplers.ddpm import DDPM
from minidiff.diffusion.samplers.deis import DEIS
from minidiff.diffusion.samplers.discrete import DiscreteSampler, SigmaSampler
from minidiff.diffusion.samplers.dpm_solver import DPMSolverMultistep, DPMSolverSinglestep
from minidiff.diffusion.samplers.dpm_solver_sde import DPMSolverSDE
from minidiff.diffusion.samplers.edm import EDMEuler, EDMHeun
from minidiff.diffusion.samplers.edm_dpm_solver import EDMDPMSolverMultistep
from minidiff.diffusion.samplers.euler import Euler, EulerAncestral
from minidiff.diffusion.samplers.flow_match import FlowMatchEuler, FlowMatchHeun
from minidiff.diffusion.samplers.heun import KDPM2, Heun, KDPM2Ancestral
from minidiff.diffusion.samplers.lcm import LCM
from minidiff.diffusion.samplers.lms import LMS
from minidiff.diffusion.samplers.names import SAMPLER_FAMILIES, SAMPLERS, make_sampler, samplers_like
from minidiff.diffusion.samplers.pndm import PNDM
from minidiff.diffusion.samplers.sampler import Sampler, Step
from minidiff.diffusion.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "KDPM2",
    "LCM",
    "LMS",
    "PNDM",
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
    "Heun",
    "KDPM2Ancestral",
    "Sampler",
    "SigmaSampler",
    "Step",
    "UniPC",
    "make_sampler",
    "samplers_like",
]
