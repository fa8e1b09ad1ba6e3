"""The sums that diffusers' own tests publish: tests/schedulers/test_scheduler_dpm_multi.py, _dpm_single, _unipc, _deis
and _edm_dpmsolver_multistep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.diffusion import DEIS, DPMSolverMultistep, DPMSolverSinglestep, Sampler, UniPC

SHAPE = (4, 3, 8, 8)
SIZE = 768
END: dict[str, Any] = {"final_sigmas_type": "sigma_min"}  # diffusers' tests are older than "zero"
MULTI: dict[str, Any] = {"lower_order_final": False, **END}
V = {"prediction_type": "v_prediction"}
KARRAS = {"use_karras_sigmas": True}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5}


def ramp(numbers: Any) -> Any:
    return (numbers.astype(np.float32).reshape(3, 8, 8, 4) / np.float32(SIZE)).transpose(3, 0, 1, 2)


def loop(sampler: Sampler, x: Any, timesteps: list[float]) -> Any:
    for t in timesteps:
        x = sampler.step(x * (t / (t + 1)), t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("cls", "options", "mean"),
    [
        (DPMSolverMultistep, MULTI, 0.3301),
        (DPMSolverMultistep, {**MULTI, **THRESHOLD}, 1.1364),
        (DPMSolverMultistep, {**MULTI, **V}, 0.2251),
        (DPMSolverMultistep, {**MULTI, **V, **KARRAS}, 0.2096),
        (DPMSolverMultistep, {**MULTI, **V, "use_lu_lambdas": True}, 0.1554),
        (DPMSolverSinglestep, END, 0.2791),
        (DPMSolverSinglestep, {**END, **KARRAS}, 0.2248),
        (DPMSolverSinglestep, {**END, **V}, 0.1453),
        (DPMSolverSinglestep, {**END, **V, **KARRAS}, 0.0649),
        (UniPC, END, 0.2464),
        (UniPC, {**END, **KARRAS}, 0.2925),
        (UniPC, {**END, **V}, 0.1014),
        (UniPC, {**END, **V, **KARRAS}, 0.1966),
        (DEIS, {}, 0.23916),
        (DEIS, V, 0.091),
    ],
)
def test_full_loop(backend: Backend, cls: Any, options: dict[str, Any], mean: float) -> None:
    sampler = cls(**options)
    sampler.set_timesteps(10)
    x = loop(sampler, backend.from_numpy(ramp(np.arange(SIZE))), sampler.timesteps)
    host = backend.to_numpy(x)
    assert host.dtype == np.float32
    assert abs(np.abs(host).mean() - mean) < 1e-3


@pytest.mark.parametrize(
    ("cls", "options", "start", "total", "mean"),
    [
        (DPMSolverMultistep, MULTI, 5, 318.4111, 0.4146),
        (DPMSolverSinglestep, END, 5, 269.2187, 0.3505),
        (UniPC, END, 8, 315.5757, 0.4109),
        (DEIS, {}, 8, 315.3016, 0.41054),
    ],
)
def test_from_the_middle(
    backend: Backend, cls: Any, options: dict[str, Any], start: int, total: float, mean: float
) -> None:
    sampler = cls(**options)
    sampler.set_timesteps(10)
    x0, noise = (backend.from_numpy(ramp(n)) for n in (np.arange(SIZE), np.arange(SIZE)[::-1]))
    timesteps = sampler.timesteps[start:]
    host = np.abs(backend.to_numpy(loop(sampler, sampler.add_noise(x0, noise, timesteps[0]), timesteps)))
    assert abs(host.sum() - total) < 1e-2
    assert abs(host.mean() - mean) < 1e-3


def test_singlestep_from_within_a_step() -> None:
    """It begins at order 1 wherever a run begins."""
    sampler = DPMSolverSinglestep(**END)
    sampler.set_timesteps(50)
    x = loop(sampler, ramp(np.arange(SIZE)), sampler.timesteps[3:])
    assert abs(np.abs(x).mean() - 0.2574) < 1e-3


def test_another_samplers_configuration() -> None:
    """As in diffusers' test_switch: names of solver types that a class does not know mean its own."""
    first = DPMSolverMultistep(**MULTI)
    sampler: Any = first
    for cls in (DPMSolverSinglestep, UniPC, DEIS, DPMSolverMultistep):
        sampler = cls.from_config(sampler.config)
    assert {**sampler.config, "final_sigmas_type": "sigma_min"} == first.config
