"""Samplers by the names that a command line takes, in families whose members can take each other's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minidiff.diffusion.samplers.ddim import DDIM
from minidiff.diffusion.samplers.ddpm import DDPM
from minidiff.diffusion.samplers.deis import DEIS
from minidiff.diffusion.samplers.discrete import DiscreteSampler
from minidiff.diffusion.samplers.dpm_solver import DPMSolverMultistep, DPMSolverSinglestep
from minidiff.diffusion.samplers.dpm_solver_sde import DPMSolverSDE
from minidiff.diffusion.samplers.edm import EDMEuler, EDMHeun
from minidiff.diffusion.samplers.edm_dpm_solver import EDMDPMSolverMultistep
from minidiff.diffusion.samplers.euler import Euler, EulerAncestral
from minidiff.diffusion.samplers.flow_match import FlowMatchEuler, FlowMatchHeun
from minidiff.diffusion.samplers.heun import KDPM2, Heun, KDPM2Ancestral
from minidiff.diffusion.samplers.lcm import LCM
from minidiff.diffusion.samplers.lms import LMS
from minidiff.diffusion.samplers.pndm import PNDM
from minidiff.diffusion.samplers.sampler import Sampler
from minidiff.diffusion.samplers.unipc import UniPC
from minidiff.diffusion.schedule import NoiseSchedule

__all__ = ["SAMPLERS", "SAMPLER_FAMILIES", "make_sampler", "samplers_like"]

SAMPLERS: dict[str, type[DiscreteSampler]] = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "pndm": PNDM,
    "euler": Euler,
    "euler-ancestral": EulerAncestral,
    "heun": Heun,
    "kdpm2": KDPM2,
    "kdpm2-ancestral": KDPM2Ancestral,
    "lms": LMS,
    "dpm-solver": DPMSolverMultistep,
    "dpm-solver-singlestep": DPMSolverSinglestep,
    "dpm-solver-sde": DPMSolverSDE,
    "unipc": UniPC,
    "deis": DEIS,
    "lcm": LCM,
}
SAMPLER_FAMILIES: tuple[Mapping[str, type[Sampler]], ...] = (
    SAMPLERS,
    {"edm-euler": EDMEuler, "edm-heun": EDMHeun, "edm-dpm-solver": EDMDPMSolverMultistep},
    {"flow-euler": FlowMatchEuler, "flow-heun": FlowMatchHeun},
)


def samplers_like(sampler: Sampler) -> Mapping[str, type[Sampler]]:
    """The family of a sampler: those that draw from the same networks, by their names; empty for one of your own."""
    return next((family for family in SAMPLER_FAMILIES if type(sampler) in family.values()), {})


def make_sampler(name: str, schedule: NoiseSchedule, **options: Any) -> DiscreteSampler:
    """The sampler of this name: a key of `SAMPLERS`.

    Raises
    ------
    ValueError
        If no sampler has the name; the message lists them.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; samplers are {list(SAMPLERS)}")
    return SAMPLERS[name](schedule, **options)
