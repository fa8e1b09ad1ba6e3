"""Samplers against distributions with a known answer, and the order with which they converge to it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from minidiff.diffusion import (
    DDIM,
    DDPM,
    KDPM2,
    LMS,
    PNDM,
    PREDICTION_TYPES,
    DDIMInverse,
    EDMEuler,
    EDMHeun,
    Euler,
    EulerAncestral,
    Heun,
    NoiseSchedule,
    Point,
    Sampler,
    make_sampler,
    sample,
    target,
)
from minidiff.random import Generator
from tests.diffusers_dummy import ramp, reversed_ramp

SPACINGS = ["leading", "trailing", "linspace"]


def exact_model(kind: str, schedule: NoiseSchedule, mean: float, std: float) -> Any:
    """The best possible prediction for images whose pixels are N(mean, std^2), independent of each other.

    Between two timesteps the noise is interpolated as samplers do it, in sigma / alpha.
    """

    def model(x: Any, t: Any) -> Any:
        t = np.asarray(t, dtype=np.float64).reshape(-1)[0]
        ratio = float(np.interp(t, range(schedule.num_train_timesteps), schedule.ratios))
        alpha, sigma = 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)
        x0 = mean + (x - alpha * mean) * (alpha * std**2 / (alpha**2 * std**2 + sigma**2))
        return target(kind, x0, (x - alpha * x0) / sigma, alpha, sigma)

    return model


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("ddim", {"timestep_spacing": "trailing", "clip_sample": False}, 200),
        ("ddim", {"timestep_spacing": "linspace", "eta": 0.5, "clip_sample": False}, 250),
        ("ddpm", {"clip_sample": False}, 1000),
        ("ddpm", {"variance_type": "fixed_large", "clip_sample": False}, 1000),
        ("euler", {}, 200),
        ("euler", {"use_karras_sigmas": True}, 300),
        ("euler-ancestral", {}, 300),
        ("heun", {"use_karras_sigmas": True}, 30),
        ("kdpm2", {"use_karras_sigmas": True}, 30),
        ("kdpm2-ancestral", {}, 150),
        ("lms", {"use_karras_sigmas": True}, 60),
        ("pndm", {"skip_prk_steps": True}, 50),
    ],
)
def test_a_gaussian_is_recovered(name: str, options: dict[str, Any], steps: int, kind: str) -> None:
    if name == "pndm" and kind == "v_prediction":
        pytest.skip("as in diffusers, the mean of several v of different timesteps is taken, which is no v")
    schedule = NoiseSchedule(beta_schedule="sigmoid")
    sampler = make_sampler(name, schedule, prediction_type=kind, **options)
    model = exact_model(kind, schedule, 0.4, 0.3)
    x = sample(model, (2000, 1, 1, 2), sampler, steps=steps, rng=Generator(1))
    assert x.dtype == np.float32
    assert x.mean() == pytest.approx(0.4, abs=4 * 0.3 / math.sqrt(4000))
    assert x.std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 250])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_one_image_is_recovered_in_any_number_of_steps(kind: str, steps: int, spacing: str) -> None:
    """A model that knows the only image there is: every path of Euler ends in it."""
    schedule = NoiseSchedule()
    sampler = Euler(schedule, prediction_type=kind, timestep_spacing=spacing)
    model = exact_model(kind, schedule, 0.25, 0.0)
    x = sample(model, (1, 1, 2, 2), sampler, steps=steps, rng=Generator(4))
    np.testing.assert_allclose(x, 0.25, atol=1e-4)


# --- relations


@pytest.mark.parametrize(
    ("sampler", "chosen"),
    [
        (DDIM(), {"num_inference_steps": 8}),
        (DDIM(), {"timesteps": [999, 700, 333, 20]}),
        (Euler(timestep_spacing="trailing"), {"num_inference_steps": 7}),
        (Euler(), {"num_inference_steps": 7}),
        (Euler(), {"timesteps": [999, 700, 333, 20]}),
    ],
)
def test_a_step_leads_to_the_next_timestep(sampler: Any, chosen: dict[str, Any]) -> None:
    """Of a model that knows image and noise, every step is a point of the forward process."""
    x0, eps = ramp().astype(np.float64), reversed_ramp().astype(np.float64)
    sampler.set_timesteps(**chosen)
    x = sampler.add_noise(x0, eps, sampler.timesteps[0])
    for t, following in zip(sampler.timesteps, [*sampler.timesteps[1:], None], strict=True):
        x = sampler.step(eps, t, x).prev_sample
        expected = x0 if following is None else sampler.add_noise(x0, eps, following)
        np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-9)


def test_ddim_goes_to_the_timestep_of_diffusers() -> None:
    """From t to t - T // n, which for "linspace" is not the timestep that is visited next."""
    x0, eps = ramp().astype(np.float64), reversed_ramp().astype(np.float64)
    sampler = DDIM(timestep_spacing="linspace")
    sampler.set_timesteps(7)
    x = sampler.step(eps, 999, sampler.add_noise(x0, eps, 999)).prev_sample
    np.testing.assert_allclose(x, sampler.add_noise(x0, eps, 999 - 142), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_ddim_with_eta_one_is_ddpm(kind: str) -> None:
    """Song et al., section 4.1: both take the same steps from the same noise."""
    ends = []
    for sampler in (
        DDIM(eta=1.0, clip_sample=False, prediction_type=kind),
        DDPM(clip_sample=False, prediction_type=kind),
    ):
        sampler.set_timesteps(40)
        x, rng = ramp().astype(np.float64), Generator(0)
        for t in sampler.timesteps:
            x = sampler.step(np.sin(7 * x), t, x, rng=rng).prev_sample
        ends.append(x)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-7, atol=1e-7)


def test_euler_is_ddim_at_another_size() -> None:
    """x / alpha of the one is x of the other, and so with fresh noise."""
    for euler, ddim in [
        (Euler(timestep_spacing="leading"), DDIM(clip_sample=False)),
        (EulerAncestral(timestep_spacing="leading"), DDIM(clip_sample=False, eta=1.0)),
    ]:
        euler.set_timesteps(10)
        ddim.set_timesteps(10)
        x = ramp().astype(np.float64)
        big = x / ddim.points[0].alpha
        rngs = Generator(0), Generator(0)
        for i, (t, u) in enumerate(zip(ddim.timesteps, euler.timesteps, strict=True)):
            np.testing.assert_allclose(euler.scale_model_input(big, u), x, rtol=1e-9)
            x = ddim.step(np.sin(x), t, x, rng=rngs[0]).prev_sample
            seen = euler.scale_model_input(big, u)
            big = euler.step(np.sin(seen), u, big, rng=rngs[1]).prev_sample
            np.testing.assert_allclose(big * ddim.points[i + 1].alpha, x, rtol=1e-9, atol=1e-12)


def test_inversion_leads_back() -> None:
    """From an image to its noise and again to the image, with a model whose noise hardly depends on x."""
    inverse, forward = DDIMInverse(clip_sample=False), DDIM(clip_sample=False)
    x = ramp().astype(np.float64)
    for sampler in (inverse, forward):
        sampler.set_timesteps(1000)
        for t in sampler.timesteps:
            x = sampler.step(np.sin(3 + 0.1 * x), t, x).prev_sample
    np.testing.assert_allclose(x, ramp(), atol=5e-3)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid", "scaled_linear"])
def test_eta_is_possible_at_every_step(schedule: str) -> None:
    """1 - a_prev - sigma^2 never falls below zero, where its root would fail."""
    x = np.zeros((1, 1, 1, 1), np.float32)
    for steps in (999, 200, 3, 1):
        for to_one in (True, False):
            sampler = DDIM(
                beta_schedule=schedule, eta=1.0, set_alpha_to_one=to_one, timestep_spacing="trailing"
            )
            sampler.set_timesteps(steps)
            assert all(
                np.isfinite(sampler.step(x, t, x, noise=x).prev_sample).all() for t in sampler.timesteps
            )


# --- order of convergence


def said(sampler: Sampler, point: Point, x: Any, std: float) -> Any:
    """What a perfect network says of Gaussian images of this standard deviation."""
    x0 = x * (point.alpha * std**2 / (point.alpha**2 * std**2 + point.sigma**2))
    if isinstance(sampler, EDMEuler):
        total = point.sigma**2 + sampler.sigma_data**2
        return (
            (x0 - sampler.sigma_data**2 / total * x) * math.sqrt(total) / (point.sigma * sampler.sigma_data)
        )
    return target(sampler.prediction_type, x0, (x - point.alpha * x0) / point.sigma, point.alpha, point.sigma)


def error(sampler: Any, steps: int, std: float = 0.4) -> float:
    """How far the path is from the exact one, on which x grows as sqrt(alpha^2 std^2 + sigma^2).

    Sigmas that lie along a curve are followed to the last; timesteps to a quarter of them, since sigma as a
    function of t has no derivative at its end.
    """
    sampler.set_timesteps(steps)

    def exact(point: Point) -> Any:
        return np.ones((1, 1, 1, 1)) * math.hypot(point.alpha * std, point.sigma)

    x = exact(sampler.points[0])
    for i, (point, t) in enumerate(zip(sampler.points[:-1], sampler.timesteps, strict=True)):
        if i == len(sampler.timesteps) - 1 or (type(t) is int and t == sampler.num_train_timesteps // 4):
            break
        x = sampler.step(said(sampler, point, x, std), t, x).prev_sample
    return float(abs(x - exact(point)).max()) / point.alpha


KARRAS: dict[str, Any] = {
    "use_karras_sigmas": True,
    "beta_schedule": "scaled_linear",
    "prediction_type": "sample",
}


@pytest.mark.parametrize(
    ("sampler", "steps", "order"),
    [
        (Euler(**KARRAS), 64, 1),
        (LMS(**KARRAS, order=1), 64, 1),
        (LMS(**KARRAS, order=2), 64, 2),
        (LMS(**KARRAS, order=3), 64, 3),
        (Heun(**KARRAS), 32, 2),
        (KDPM2(**KARRAS), 32, 2),
        (EDMEuler(), 64, 1),
        (EDMHeun(), 32, 2),
        (DDIM(num_train_timesteps=4096, beta_end=0.005, clip_sample=False), 64, 1),
        (PNDM(num_train_timesteps=4096, beta_end=0.005), 128, 2),
        (PNDM(num_train_timesteps=4096, beta_end=0.005, skip_prk_steps=True), 128, 2),
    ],
    ids=repr,
)
def test_order_of_convergence(sampler: Any, steps: int, order: int) -> None:
    """Half the step, half the error to the power of the order; 2 is what the paper of PNDM proves."""
    errors = [error(sampler, n) for n in (steps, 2 * steps, 4 * steps)]
    measured = [math.log2(a / b) for a, b in pairwise(errors)]
    assert measured == pytest.approx([order] * 2, abs=0.35), errors
