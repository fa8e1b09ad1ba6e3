"""One step of a sampler on the emulated device, against the samplers on the CPU."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidiff import Generator
from minidiff.backend import Backend
from minidiff.diffusion import DDIM, DDPM
from minidiff.diffusion.draws import noise_like
from minidiff.diffusion.prediction import find_prediction
from minidiff.diffusion.schedule import posterior_coefficients
from minidiff_cupy.sampling import sampler_step
from tests import simt

SAMPLERS: dict[str, Any] = {
    "ddim": DDIM,
    "ddim, some noise": lambda **options: DDIM(eta=0.5, **options),
    "ddim, noise of the clipped image": lambda **options: DDIM(use_clipped_model_output=True, **options),
    "ddpm": DDPM,
}


def coefficients(sampler: Any, t: int) -> dict[str, Any]:
    """What the arrays weigh in a step of DDIM or DDPM: its formulas, applied to numbers."""
    a, a_prev = sampler._alpha_bars(t)
    alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
    formulas = find_prediction(sampler.prediction_type).sample_and_noise
    (x0_of_y, eps_of_y), (x0_of_x, eps_of_x) = (
        formulas(*unit, alpha, sigma) for unit in ((1.0, 0.0), (0.0, 1.0))
    )
    limit = sampler.clip_sample_range if sampler.clip_sample else math.inf
    last = t == sampler.timesteps[-1]
    if isinstance(sampler, DDPM):
        of_x0, of_x, variance = posterior_coefficients(a, a_prev)
        following = of_x0, of_x, 0.0, 0.0 if last else math.sqrt(variance)
    else:
        noise = sampler.eta * math.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        of_eps = math.sqrt(1 - a_prev - noise**2)
        if sampler.use_clipped_model_output:
            following = math.sqrt(a_prev) - of_eps * alpha / sigma, of_eps / sigma, 0.0, noise
        else:
            following = math.sqrt(a_prev), of_eps * eps_of_x, of_eps * eps_of_y, noise
    return {"clean": (x0_of_y, x0_of_x), "limit": limit, "following": following}


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_of_samplers(simt_backend: Backend, name: str, prediction_type: str) -> None:
    sampler = SAMPLERS[name](prediction_type=prediction_type, beta_schedule="cosine")
    sampler.set_timesteps(5)
    rng = np.random.default_rng(0)
    y, x = (rng.standard_normal((2, 3, 5, 7)).astype(np.float32) for _ in range(2))
    noise = noise_like(Generator(1), x)
    for t in sampler.timesteps:
        expected = sampler.step(y, t, x, rng=Generator(1))
        there = map(simt_backend.from_numpy, (y, x, noise))
        following, clean = sampler_step(simt_backend.xp, *there, **coefficients(sampler, t))
        np.testing.assert_allclose(
            simt_backend.to_numpy(clean), expected.pred_original_sample, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            simt_backend.to_numpy(following), expected.prev_sample, rtol=1e-4, atol=1e-5
        )


OPTIONS = {"clean": (0.5, 1.5), "limit": 1.0, "following": (0.3, 0.6, 0.2, 0.1)}


def by_hand(y: Any, x: Any, z: Any) -> tuple[Any, Any]:
    x0 = np.clip(0.5 * y + 1.5 * x, -1, 1)
    return 0.3 * x0 + 0.6 * x + 0.2 * y + 0.1 * z, x0


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 3, 3), (1, 1, 1, 1), (0, 3, 2, 2), (1, 5, 19, 27)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_results_lie_as_the_output_does(simt_backend: Backend, dtype: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    y, x, z = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    y = np.ascontiguousarray(y.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    there = [simt_backend.from_numpy(a) for a in (y, x, z)]
    results = sampler_step(simt_backend.xp, *there, **OPTIONS)
    tolerance = 1e-6 if dtype == np.float32 else 1e-2
    for a, e in zip(results, by_hand(*(a.astype(np.float64) for a in (y, x, z))), strict=True):
        assert a.dtype == dtype
        assert a.strides == there[0].strides
        np.testing.assert_allclose(
            simt_backend.to_numpy(a).astype(np.float64), e, rtol=tolerance, atol=tolerance
        )
    for a, before in zip(there, (y, x, z), strict=True):
        np.testing.assert_array_equal(simt_backend.to_numpy(a), before)


def test_without_noise_or_clipping(simt_backend: Backend) -> None:
    y = simt_backend.from_numpy(np.array([[3.0, -4.0, np.nan, np.inf]], np.float32))
    options = {"clean": (2.0, 0.0), "limit": math.inf, "following": (1.0, 0.0, 0.0, 0.0)}
    following, clean = sampler_step(
        simt_backend.xp, y, simt_backend.xp.ones((1, 4), dtype=y.dtype), None, **options
    )
    np.testing.assert_array_equal(simt_backend.to_numpy(clean)[0, :2], [6, -8])
    assert np.isnan(simt_backend.to_numpy(clean)[0, 2])
    np.testing.assert_array_equal(simt_backend.to_numpy(following)[0, :2], [6, -8])


def test_what_is_left_to_others() -> None:
    backend = simt.backend()
    wide, single = (backend.from_numpy(np.zeros((1, 2), dtype)) for dtype in (np.float64, np.float32))
    assert sampler_step(backend.xp, wide, wide, None, **OPTIONS) is NotImplemented
    assert sampler_step(backend.xp, single, wide, None, **OPTIONS) is NotImplemented
