"""Single steps: how much noise they add, what is clipped, and the formulas of papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.diffusion import (
    DDIM,
    DDPM,
    LCM,
    PNDM,
    DDIMInverse,
    EDMEuler,
    EDMHeun,
    Euler,
    EulerAncestral,
    Heun,
    Sampler,
)
from minidiff.diffusion.samplers.limits import dynamic_threshold
from minidiff.diffusion.samplers.lms import adams_bashforth
from minidiff.random import Generator
from tests.diffusers_dummy import ramp, reversed_ramp

ONE = (1, 1, 1, 1)


def noise_scale(sampler: Sampler, steps: int, t: int, output: Any = None) -> float:
    """Standard deviation of the noise that a step adds."""
    sampler.set_timesteps(steps)
    x = np.zeros(ONE)
    y = x if output is None else output
    return float(sampler.step(y, t, x, noise=np.ones(ONE)).prev_sample[0, 0, 0, 0])


# --- noise


@pytest.mark.parametrize(
    ("sampler", "steps", "t", "variance"),
    [
        (DDIM(eta=1.0), 50, 420, 0.14771),
        (DDIM(eta=1.0), 50, 980, 0.32460),
        (DDIM(eta=0.5), 50, 980, 0.32460 / 4),
        (DDIM(eta=1.0), 1000, 487, 0.00979),
        (DDIM(eta=1.0), 1000, 999, 0.02),
        (DDIM(eta=1.0), 1000, 0, 0.0),
        (DDPM(), 1000, 487, 0.00979),
        (DDPM(), 1000, 999, 0.02),
        (DDPM(), 1000, 0, 0.0),
        (DDPM(variance_type="fixed_large"), 1000, 999, 0.02),
        (DDPM(variance_type="fixed_large"), 1000, 0, 0.0),
    ],
)
def test_published_variances(sampler: Sampler, steps: int, t: int, variance: float) -> None:
    """The numbers of diffusers' test_variance, and none at t = 0."""
    assert noise_scale(sampler, steps, t) ** 2 == pytest.approx(variance, abs=1e-5)


def test_fixed_large_is_beta() -> None:
    for name in ("fixed_large", "fixed_large_log"):
        sampler = DDPM(variance_type=name)
        assert noise_scale(sampler, 1000, 100) == pytest.approx(sampler.schedule.betas[100] ** 0.5, rel=1e-9)
        a = sampler.schedule.alphas_cumprod
        assert noise_scale(sampler, 10, 900) ** 2 == pytest.approx(1 - a[900] / a[800], rel=1e-9)
    assert noise_scale(DDPM(variance_type="fixed_small_log"), 10, 900) == noise_scale(DDPM(), 10, 900)


def test_only_timestep_zero_adds_no_noise() -> None:
    """As in diffusers: a run that ends before timestep 0 ends in noise, if its variance is large."""
    large = DDPM(variance_type="fixed_large", timestep_spacing="trailing")
    assert noise_scale(large, 10, 99) ** 2 == pytest.approx(1 - large.schedule.alphas_cumprod[99], rel=1e-9)
    assert noise_scale(DDPM(timestep_spacing="trailing"), 10, 99) == pytest.approx(1e-10, rel=1e-6)


def test_learned_variances() -> None:
    """-1 is the posterior's variance, 1 is beta, 0 their geometric mean; or the variance itself."""
    small, large = (noise_scale(DDPM(variance_type=f"fixed_{size}"), 10, 900) for size in ("small", "large"))
    for said, expected in [(-1, small), (1, large), (0, math.sqrt(small * large))]:
        y = np.array([0.0, said]).reshape(1, 2, 1, 1)
        assert noise_scale(DDPM(variance_type="learned_range"), 10, 900, y) == pytest.approx(
            expected, rel=1e-9
        )
    y = np.array([0.0, 0.25]).reshape(1, 2, 1, 1)
    assert noise_scale(DDPM(variance_type="learned"), 10, 900, y) == pytest.approx(0.5, rel=1e-9)
    with pytest.raises(ValueError, match="must give 2 channels for images of 1, got 1"):
        noise_scale(DDPM(variance_type="learned"), 10, 900)


def test_ancestral_noise_is_that_of_ddpm() -> None:
    """Seen at an image of full size, both are one process."""
    euler, ddpm = EulerAncestral(timestep_spacing="leading"), DDPM(clip_sample=False)
    a = ddpm.schedule.alphas_cumprod
    scale = noise_scale(ddpm, 10, 900) / math.sqrt(a[800])
    assert noise_scale(euler, 10, 900) == pytest.approx(scale, rel=1e-6)


def test_noise_as_an_array_or_from_a_generator(backend: Backend) -> None:
    x = backend.from_numpy(ramp())
    sampler = DDPM()
    sampler.set_timesteps(10)
    drawn = sampler.step(x, 900, x, rng=Generator(3, backend)).prev_sample
    given = sampler.step(x, 900, x, noise=Generator(3, backend).normal(x.shape)).prev_sample
    np.testing.assert_array_equal(backend.to_numpy(drawn), backend.to_numpy(given))


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(eta=0.1), EulerAncestral(), Euler(s_churn=3.0), LCM()])
def test_noise_needs_a_generator(sampler: Sampler) -> None:
    sampler.set_timesteps(10)
    with pytest.raises(ValueError, match=r"adds noise: pass rng=minidiff.random.Generator\(seed"):
        sampler.step(ramp(), sampler.timesteps[0], ramp())


# --- limits


@pytest.mark.parametrize("sampler_type", [DDIM, DDPM, DDIMInverse, Heun, LCM])
def test_the_clean_image_is_clipped(backend: Backend, sampler_type: Any) -> None:
    x, noise = backend.from_numpy(ramp() * 10 - 5), backend.from_numpy(ramp())
    for options, low, high in [
        ({"clip_sample": True}, -1.0, 1.0),
        ({"clip_sample": True, "clip_sample_range": 2.0}, -2.0, 2.0),
        ({"clip_sample": False}, -5.0, float(ramp().max() * 10 - 5)),
    ]:
        sampler = sampler_type(prediction_type="epsilon", **options)
        sampler.set_timesteps(10)
        t = sampler.timesteps[-2]
        point = sampler.points[-3]
        y = (noise * point.sigma + x * (1 - point.alpha)) * (1 / point.sigma)  # says that x is the image
        got = backend.to_numpy(sampler._x0(y, x + point.sigma * noise, point))
        assert got.min() == pytest.approx(low, abs=1e-4)
        assert got.max() == pytest.approx(high, abs=1e-4)
        assert sampler.step(y, t, x, noise=noise).prev_sample.shape == x.shape


def test_noise_after_clipping() -> None:
    """By default the model's own noise is used; `use_clipped_model_output` fits it to the clipped image."""
    x, eps = np.full(ONE, 5.0), np.full(ONE, 0.5)
    for fitted in (False, True):
        sampler = DDIM(use_clipped_model_output=fitted)
        sampler.set_timesteps(10)
        a, a_prev = sampler.schedule.alphas_cumprod[[500, 400]]
        noise = (5.0 - math.sqrt(a)) / math.sqrt(1 - a) if fitted else 0.5
        got = sampler.step(eps, 500, x).prev_sample[0, 0, 0, 0]
        assert got == pytest.approx(math.sqrt(a_prev) + math.sqrt(1 - a_prev) * noise, rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "largest"), [(0.9, 1.5), (0.995, 100.0), (0.5, 2.0), (1.0, 3.0), (0.0, 2.0)]
)
def test_dynamic_threshold(backend: Backend, ratio: float, largest: float) -> None:
    """Each image by the quantile of its own absolute values, never below 1."""
    x = np.random.default_rng(0).normal(size=(3, 2, 5, 7)).astype(np.float32) * np.float32(
        [[[[0.3]]], [[[2]]], [[[9]]]]
    )
    s = np.clip(np.quantile(np.abs(x).reshape(3, -1), ratio, axis=1), 1, largest).reshape(3, 1, 1, 1)
    got = backend.to_numpy(dynamic_threshold(backend.from_numpy(x), ratio, largest))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.clip(x, -s, s) / s, rtol=1e-5, atol=1e-6)


def test_thresholding_goes_before_clipping() -> None:
    x = ramp() * 10 - 5
    sampler = DDIM(
        prediction_type="sample", thresholding=True, dynamic_thresholding_ratio=0.5, sample_max_value=9.0
    )
    sampler.set_timesteps(10)
    expected = dynamic_threshold(x, 0.5, 9.0)
    np.testing.assert_array_equal(sampler.step(x, 0, x).pred_original_sample, expected)
    assert (np.abs(expected) < 1).any()


# --- ends of a schedule


@pytest.mark.parametrize("sampler_type", [DDIM, DDPM, LCM, Euler, EulerAncestral])
def test_zero_terminal_snr(sampler_type: Any) -> None:
    """The first step begins where nothing is left of the image, and only v or the image itself can lead out."""
    x = ramp()
    options: dict[str, Any] = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    sampler = sampler_type(prediction_type="v_prediction", **options)
    sampler.set_timesteps(5)
    assert sampler.timesteps[0] == 999
    assert np.isfinite(sampler.step(x, 999, x, noise=x).prev_sample).all()
    if sampler_type in (DDIM, DDPM, LCM):
        sampler = sampler_type(prediction_type="epsilon", **options)
        sampler.set_timesteps(5)
        with pytest.raises(
            ValueError, match=r"timestep 999 alpha = 0: no image is left.*'epsilon' cannot tell it"
        ):
            sampler.step(x, 999, x, noise=x)


def test_a_clean_image_has_no_noise_to_tell() -> None:
    sampler = DDIMInverse(prediction_type="sample")
    sampler.set_timesteps(5)
    with pytest.raises(
        ValueError, match=r"timestep 0 sigma = 0: there is no noise yet.*'sample' cannot tell it"
    ):
        sampler.step(ramp(), 0, ramp())


# --- formulas of one sampler


def test_churn_of_euler_is_that_of_diffusers() -> None:
    """The noise is raised after the network has spoken: of the noise it saw then, or of v at the sigma it saw."""
    x, z, y = 3.0, 0.7, 0.4
    for kind in ("epsilon", "v_prediction"):
        sampler = Euler(prediction_type=kind, s_churn=2.0, s_noise=1.1)
        sampler.set_timesteps(5)
        sigma, following = (p.sigma for p in sampler.points[1:3])
        hat = sigma * 1.4
        raised = x + 1.1 * z * math.sqrt(hat**2 - sigma**2)
        x0 = {
            "epsilon": raised - hat * y,
            "v_prediction": raised / (sigma**2 + 1) - y * sigma / math.sqrt(sigma**2 + 1),
        }[kind]
        t = sampler.timesteps[1]
        got = sampler.step(np.full(ONE, y), t, np.full(ONE, x), noise=np.full(ONE, z))
        assert got.pred_original_sample[0, 0, 0, 0] == pytest.approx(x0, rel=1e-9)
        expected = raised + (following - hat) * (raised - x0) / hat
        assert got.prev_sample[0, 0, 0, 0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("kind", "sign"), [("epsilon", 1), ("v_prediction", -1)])
def test_preconditioning_of_edm(kind: str, sign: int) -> None:
    """x_0 = c_skip x + c_out F with sigma_data 0.5 (Karras et al., table 1); diffusers' v has the other sign."""
    sampler = EDMEuler(prediction_type=kind)
    sampler.set_timesteps(10)
    sigma, x, y = sampler.points[4].sigma, 3.0, 0.4
    x0 = 0.25 / (sigma**2 + 0.25) * x + sign * sigma * 0.5 / math.sqrt(sigma**2 + 0.25) * y
    got = sampler.step(np.full(ONE, y), sampler.timesteps[4], np.full(ONE, x))
    assert got.pred_original_sample[0, 0, 0, 0] == pytest.approx(x0, rel=1e-9)
    assert got.prev_sample[0, 0, 0, 0] == pytest.approx(
        x0 + sampler.points[5].sigma / sigma * (x - x0), rel=1e-9
    )


def test_boundary_condition_of_lcm() -> None:
    """c_skip = 1/4 / (s^2 + 1/4), c_out = s / sqrt(s^2 + 1/4) for s = timestep * timestep_scaling."""
    sampler = LCM(timestep_scaling=0.001, prediction_type="sample")
    sampler.set_timesteps(2)
    s = 0.499
    denoised = s / math.sqrt(s**2 + 0.25) * 0.3 + 0.25 / (s**2 + 0.25) * 2.0
    got = sampler.step(np.full(ONE, 0.3), 499, np.full(ONE, 2.0))
    assert (
        got.prev_sample[0, 0, 0, 0]
        == got.pred_original_sample[0, 0, 0, 0]
        == pytest.approx(denoised, rel=1e-12)
    )


def test_the_second_call_of_pndm_begins_where_diffusers_begins() -> None:
    """T // n timesteps above where it ends, also where the first call was made elsewhere ("linspace")."""
    sampler = PNDM(skip_prk_steps=True, timestep_spacing="linspace", set_alpha_to_one=True)
    sampler.set_timesteps(7)
    assert sampler.timesteps[:3] == [999, 832, 832]
    x, y = ramp().astype(np.float64), reversed_ramp().astype(np.float64)
    sampler.step(y, 999, x)
    got = sampler.step(y, 832, x).prev_sample
    ddim = DDIM(clip_sample=False)
    ddim.set_timesteps(timesteps=[832 + 142, 832])
    np.testing.assert_allclose(got, ddim.step(y, 832 + 142, x).prev_sample, rtol=1e-9)


def test_classical_weights_of_adams_and_bashforth() -> None:
    """On even nodes: 1; 3/2, -1/2; ...; and the integral of a cubic is exact on any."""
    for weights in ([1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]):
        nodes = [-float(k) for k in range(len(weights))]
        np.testing.assert_allclose(adams_bashforth(nodes, 0.0, 1.0), weights, rtol=1e-12)
    nodes = [5.0, 9.0, 30.0, 31.0]
    weights = adams_bashforth(nodes, 5.0, 2.0)
    assert np.dot(weights, np.power(nodes, 3)) == pytest.approx((2.0**4 - 5.0**4) / 4, rel=1e-9)


# --- the EDM paper's own loop


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_edm_heun_is_algorithm_2(churn: float) -> None:
    """Karras et al., line by line, with the network's D as a function of x and sigma."""

    def denoised(x: Any, sigma: float) -> Any:
        return np.tanh(x / (1 + sigma))

    sampler = EDMHeun(s_churn=churn, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
    n, rng = 12, np.random.default_rng(0)
    noise = [rng.normal(size=(2, 1, 3, 3)) for _ in range(n)]
    sigmas = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)] + [
        0.0
    ]
    x = expected = rng.normal(size=(2, 1, 3, 3)) * 80
    for i in range(n):
        gamma = min(churn / n, math.sqrt(2) - 1) if 0.05 <= sigmas[i] <= 50 else 0
        hat = sigmas[i] * (1 + gamma)
        expected = expected + math.sqrt(hat**2 - sigmas[i] ** 2) * 1.003 * noise[i]
        d = (expected - denoised(expected, hat)) / hat
        following = expected + (sigmas[i + 1] - hat) * d
        if sigmas[i + 1]:
            d2 = (following - denoised(following, sigmas[i + 1])) / sigmas[i + 1]
            following = expected + (sigmas[i + 1] - hat) * (d + d2) / 2
        expected = following

    sampler.set_timesteps(n)
    for i, t in enumerate(sampler.timesteps):
        sigma = sampler.points[i].sigma
        c_skip, c_out, c_in = (
            0.25 / (sigma**2 + 0.25),
            sigma / 2 / math.sqrt(sigma**2 + 0.25),
            (sigma**2 + 0.25) ** -0.5,
        )
        np.testing.assert_allclose(sampler.scale_model_input(x, t), c_in * x, rtol=1e-9)
        y = (denoised(x, sigma) - c_skip * x) / c_out
        x = sampler.step(
            y, t, x, noise=noise[(i + 1) // 2 if i + 1 < len(sampler.timesteps) else 0]
        ).prev_sample
    np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-9)
