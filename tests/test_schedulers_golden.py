"""The sums that diffusers publishes in its tests/schedulers, of ten steps with a network that says x t / (t + 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend, get_backend
from minidiff.diffusion import (
    DDIM,
    DDPM,
    KDPM2,
    LCM,
    LMS,
    PNDM,
    DDIMInverse,
    EDMEuler,
    Euler,
    EulerAncestral,
    Heun,
    KDPM2Ancestral,
    Sampler,
)
from minidiff.random import Generator
from tests.diffusers_dummy import SIZE, dummy_model, ramp, reversed_ramp, torch_noise

CPU = get_backend("cpu")


class TorchNoise(Generator):
    """A generator that draws what PyTorch's draws from seed 0."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(0, backend)
        self._numbers, self._send = torch_noise(), backend.from_numpy

    def normal(self, shape: Any, *, dtype: Any = None) -> Any:
        return self._send(next(self._numbers))


def run(backend: Backend, sampler: Sampler, steps: int, begin: int = 0, *, keep_scaled: bool = True) -> float:
    """The sum of absolute values at the end.

    Diffusers' tests hand the scaled image on to `step`, all but those of EDM (`keep_scaled`). A run that begins
    midway begins with the second ramp as noise.
    """
    sampler.set_timesteps(steps)
    x, rng = backend.from_numpy(ramp() * np.float32(sampler.init_noise_sigma)), TorchNoise(backend)
    timesteps = sampler.timesteps[begin:]
    if begin:
        x = sampler.add_noise(x, backend.from_numpy(reversed_ramp()), timesteps[0])
    for t in timesteps:
        scaled = sampler.scale_model_input(x, t)
        x = sampler.step(dummy_model(scaled, t), t, scaled if keep_scaled else x, rng=rng).prev_sample
    host = backend.to_numpy(x)
    assert host.dtype == np.float32
    assert host.size == SIZE
    return float(np.abs(host.astype(np.float64)).sum())


V = {"prediction_type": "v_prediction"}
KARRAS = {"use_karras_sigmas": True}
ALPHA_99 = {"beta_start": 0.01}  # so that the first alpha is 0.99
EARLY = {"num_train_timesteps": 1100, "beta_start": 1e-4, "beta_end": 0.02}

GOLDEN: list[tuple[type[Sampler], dict[str, Any], int, int, float]] = [  # options, steps, begin, sum
    (DDIM, {}, 10, 0, 172.0067),
    (DDIM, V, 10, 0, 52.5302),
    (DDIM, ALPHA_99, 10, 0, 149.8295),
    (DDIM, {"set_alpha_to_one": False, **ALPHA_99}, 10, 0, 149.0784),
    (DDIM, {}, 10, 8, 354.5418),
    (DDIMInverse, {}, 10, 0, 671.6816),
    (DDIMInverse, V, 10, 0, 1394.2185),
    (DDIMInverse, ALPHA_99, 10, 0, 539.9622),
    (DDIMInverse, {"set_alpha_to_one": False, **ALPHA_99}, 10, 0, 542.6722),
    (PNDM, {}, 10, 0, 198.1318),
    (PNDM, V, 10, 0, 67.3986),
    (PNDM, {"set_alpha_to_one": True, **ALPHA_99}, 10, 0, 230.0399),
    (PNDM, ALPHA_99, 10, 0, 186.9482),
    (Euler, EARLY, 10, 0, 10.0807),
    (Euler, {**EARLY, **V}, 10, 0, 0.0002),
    (Euler, {**EARLY, **KARRAS}, 10, 0, 124.5230),
    (Euler, EARLY, 10, 8, 57062.9297),
    (EulerAncestral, EARLY, 10, 0, 152.3192),
    (EulerAncestral, {**EARLY, **V}, 10, 0, 108.4439),
    (EulerAncestral, EARLY, 10, 8, 56163.0508),
    (Heun, EARLY, 10, 0, 0.1233),
    (Heun, {**EARLY, **V}, 10, 0, 4.6934e-07),
    (Heun, {**EARLY, **KARRAS}, 10, 0, 0.00015),
    (Heun, EARLY, 10, 16, 75074.8906),
    (KDPM2, EARLY, 10, 0, 20.4125),
    (KDPM2, {**EARLY, **V}, 10, 0, 4.6934e-07),
    (KDPM2, EARLY, 10, 16, 70408.4062),
    (KDPM2Ancestral, EARLY, 10, 0, 13979.9433),
    (KDPM2Ancestral, {**EARLY, **V}, 10, 0, 331.8133),
    (KDPM2Ancestral, EARLY, 10, 16, 93087.3437),
    (LMS, EARLY, 10, 0, 1006.388),
    (LMS, {**EARLY, **V}, 10, 0, 0.0017),
    (LMS, {**EARLY, **KARRAS}, 10, 0, 3812.9927),
    (LCM, {}, 1, 0, 18.7097),
    (LCM, {}, 10, 0, 197.7616),
    (EDMEuler, {"num_train_timesteps": 256}, 10, 0, 34.1855),
]


def name(case: Any) -> str:
    return (
        case.__name__ if isinstance(case, type) else "+".join(case) if isinstance(case, dict) else str(case)
    )


@pytest.mark.parametrize(("kind", "options", "steps", "begin", "total"), GOLDEN, ids=name)
def test_published_sums(
    kind: type[Sampler], options: dict[str, Any], steps: int, begin: int, total: float
) -> None:
    """Within diffusers' own tolerance of 0.01; large sums within what its float32 sigmas lose."""
    got = run(CPU, kind(**options), steps, begin, keep_scaled=kind is not EDMEuler)
    assert got == pytest.approx(total, abs=1e-2, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "total"),
    [(DDIM, {}, 172.0067), (PNDM, {}, 198.1318), (EulerAncestral, EARLY, 152.3192), (LMS, EARLY, 1006.388)],
)
def test_published_sums_on_every_library(
    backend: Backend, kind: type[Sampler], options: dict[str, Any], total: float
) -> None:
    assert run(backend, kind(**options), 10) == pytest.approx(total, abs=1e-2, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "begin", "total", "tolerance"),
    [({}, 0, 258.9606, 1e-2), (V, 0, 202.0296, 1e-2), ({}, 998, 387.9466, 3e-2)],
)
def test_published_sums_of_ddpm(options: dict[str, Any], begin: int, total: float, tolerance: float) -> None:
    """The last case takes only the steps t = 1 and 0, where 1 - alpha_bar is 1e-4.

    Diffusers subtracts in float32, which leaves three digits; in float64 the same formulas give 387.9672.
    """
    assert run(CPU, DDPM(**options), 1000, begin) == pytest.approx(total, abs=tolerance)
