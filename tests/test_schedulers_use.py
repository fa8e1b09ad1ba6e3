"""How samplers are used: what they remember of a run, where it may begin, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from minidiff.diffusion import (
    DDIM,
    DDPM,
    LCM,
    LMS,
    PNDM,
    SAMPLERS,
    DPMSolverMultistep,
    EDMEuler,
    Euler,
    EulerAncestral,
    Heun,
    KDPM2Ancestral,
    NoiseSchedule,
    Sampler,
    UniPC,
    make_sampler,
)
from minidiff.diffusion.samplers.euler import down_and_up
from minidiff.diffusion.sampling import follow
from minidiff.random import Generator
from tests.diffusers_dummy import ramp, reversed_ramp

# --- memory


def walk(sampler: Sampler, x: Any, begin: int = 0) -> Any:
    rng = Generator(5)
    for t in sampler.timesteps[begin:]:
        x = sampler.step(np.sin(3 * sampler.scale_model_input(x, t)), t, x, rng=rng).prev_sample
    return x


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_second_run_is_as_the_first(name: str) -> None:
    """After its end, after a run that was broken off, and after `set_timesteps`."""
    sampler = make_sampler(name, NoiseSchedule())
    sampler.set_timesteps(7)
    first = walk(sampler, ramp())
    np.testing.assert_array_equal(walk(sampler, ramp()), first)
    for t in sampler.timesteps[:3]:
        sampler.step(ramp(), t, ramp(), rng=Generator(0))
    np.testing.assert_array_equal(walk(sampler, ramp()), first)
    sampler.set_timesteps(7)
    np.testing.assert_array_equal(walk(sampler, ramp()), first)


@pytest.mark.parametrize("name", SAMPLERS)
def test_copies_take_steps_by_turns(name: str) -> None:
    sampler = make_sampler(name, NoiseSchedule())
    sampler.set_timesteps(7)
    images = [ramp(), reversed_ramp()]
    alone = [walk(sampler, x) for x in images]
    samplers, generators = [copy.copy(sampler) for _ in images], [Generator(5) for _ in images]
    for t in sampler.timesteps:
        for i, (one, rng) in enumerate(zip(samplers, generators, strict=True)):
            y = np.sin(3 * one.scale_model_input(images[i], t))
            images[i] = one.step(y, t, images[i], rng=rng).prev_sample
    np.testing.assert_array_equal(images, alone)


@pytest.mark.parametrize("name", SAMPLERS)
def test_looking_at_an_input_changes_nothing(name: str) -> None:
    runs = []
    for looks in (0, 3):
        sampler = make_sampler(name, NoiseSchedule())
        sampler.set_timesteps(6)
        x, rng = ramp(), Generator(1)
        for t in sampler.timesteps:
            for _ in range(looks):
                sampler.scale_model_input(x, t)
            x = sampler.step(np.sin(x), t, x, rng=rng).prev_sample
        runs.append(x)
    np.testing.assert_array_equal(*runs)


def test_a_run_that_begins_midway_has_no_memory() -> None:
    """The first step of LMS is then Euler's, and the second of two equal timesteps begins a step of Heun."""
    x, y = ramp(), reversed_ramp()
    euler, lms, heun = Euler(), LMS(), Heun(beta_start=1e-4, beta_end=0.02)
    for sampler in (euler, lms, heun):
        sampler.set_timesteps(10)
    t = euler.timesteps[6]
    expected = euler.step(y, t, x).prev_sample
    for sampler in (lms, heun):
        np.testing.assert_allclose(sampler.step(y, t, x).prev_sample, expected, rtol=1e-6, atol=1e-6)


def test_a_step_that_failed_can_be_taken_again() -> None:
    """The second call of a step draws noise: without a generator it fails, and forgets nothing."""
    sampler = KDPM2Ancestral()
    sampler.set_timesteps(5)
    x, first, second = ramp(), *sampler.timesteps[:2]
    middle = sampler.step(x, first, x).prev_sample
    with pytest.raises(ValueError, match="adds noise"):
        sampler.step(x, second, middle)
    again = sampler.step(x, second, middle, noise=x).prev_sample
    sampler.set_timesteps(5)
    sampler.step(x, first, x)
    np.testing.assert_array_equal(sampler.step(x, second, middle, noise=x).prev_sample, again)


def test_steps_from_high_to_far_lower_sigmas() -> None:
    """Where float32 or a difference of squares would end in a root of a negative number."""
    sampler = KDPM2Ancestral(beta_schedule="squaredcos_cap_v2")
    sampler.set_timesteps(4)
    assert np.isfinite(sampler.timesteps).all()
    down, up = down_and_up(1e5, 1e-5)
    assert (down, up) == (pytest.approx(1e-15, rel=1e-9), pytest.approx(1e-5, rel=1e-9))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_may_begin_at_every_start(name: str) -> None:
    sampler = make_sampler(name, NoiseSchedule())
    sampler.set_timesteps(8)
    assert sampler.starts[0] == 0
    for begin in sampler.starts:
        sampler.set_timesteps(8)
        t = sampler.timesteps[begin]
        x = sampler.add_noise(ramp(), reversed_ramp(), t)
        assert sampler._index(t) == begin or sampler.timesteps[begin - 1] == t
        assert np.isfinite(walk(sampler, x, begin)).all()


def test_starts_of_whole_steps() -> None:
    for sampler, starts in [
        (DDIM(), [0, 1, 2, 3, 4]),
        (Heun(), [0, 2, 4, 6, 8]),
        (PNDM(), [0, 4, 8, 12, 13]),
        (PNDM(skip_prk_steps=True), [0, 2, 3, 4, 5]),
    ]:
        sampler.set_timesteps(5)
        assert sampler.starts == starts


def test_a_runge_kutta_step_cannot_begin_in_its_middle() -> None:
    sampler = PNDM()
    sampler.set_timesteps(10)
    with pytest.raises(ValueError, match="step 2 of 19 is inside a Runge-Kutta step, where no run can begin"):
        sampler.step(ramp(), sampler.timesteps[1], ramp())


def test_a_run_may_begin_at_the_first_of_several_equal_timesteps() -> None:
    """Low sigmas along a curve lie at timesteps 1, 1, 0, 0: every step from there is taken once, and in its order."""
    sampler = DPMSolverMultistep(use_exponential_sigmas=True)
    sampler.set_timesteps(50)
    begin = 46
    assert sampler.timesteps[begin:] == [1, 1, 0, 0]
    x = sampler.points[begin].sigma * ramp()
    expected = x
    for point, following in pairwise(sampler.points[begin:]):  # a network that says 0 has x_0 = x / alpha
        expected = expected * following.alpha / point.alpha
    got = follow(lambda i: lambda x, t: 0 * x, x, sampler, rng=Generator(0), begin=begin)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_loop_in_parts_is_the_loop() -> None:
    runs = []
    for stops in ([0, 10], [0, 3, 4, 10]):
        sampler, x = DPMSolverMultistep(solver_order=3), ramp()
        sampler.set_timesteps(10)
        for begin, end in pairwise(stops):
            x = follow(lambda i: lambda y, t: np.sin(y), x, sampler, rng=Generator(0), begin=begin, end=end)
        runs.append(x)
    np.testing.assert_array_equal(*runs)


# --- noise of a point


@pytest.mark.parametrize(
    "sampler",
    [
        Euler(),
        DPMSolverMultistep(use_karras_sigmas=True),
        UniPC(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
    ],
)
def test_noise_is_added_at_points_however_they_are_named(sampler: Any) -> None:
    sampler.set_timesteps(10)
    x, z, point = ramp(), reversed_ramp(), sampler.points[3]
    t, n, expected = point.timestep, len(x), point.alpha * x + point.sigma * z
    for named in (t, np.asarray(t), np.asarray(t)[()], [t] * n, (t,) * n, np.asarray([t] * n)):
        np.testing.assert_allclose(sampler.add_noise(x, z, named), expected, rtol=1e-5, atol=1e-6)


def test_noise_of_flow_matching_is_not_that_of_a_noise_schedule() -> None:
    sampler = UniPC(use_flow_sigmas=True, prediction_type="flow_prediction")
    with pytest.raises(ValueError, match=r"UniPC: call set_timesteps\(n\)"):
        sampler.add_noise(ramp(), ramp(), 555)
    sampler.set_timesteps(10)
    with pytest.raises(ValueError, match="UniPC: timestep 555 is none of the 10"):
        sampler.add_noise(ramp(), ramp(), 555)


# --- networks with a learned variance


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_learned_variance_beside_the_output_is_not_in_the_way(name: str) -> None:
    """Of networks of improved diffusion, which are drawn with DDIM and DPM-Solver too."""
    images = []
    for channels in (1, 2):
        sampler = make_sampler(name, NoiseSchedule())
        sampler.set_timesteps(6)
        x, rng = ramp(), Generator(0)
        for t in sampler.timesteps:
            y = np.sin(3 * sampler.scale_model_input(x, t))
            y = y if channels == 1 else np.concatenate([y, 0 * y + 1], axis=1)
            x = sampler.step(y, t, x, rng=rng).prev_sample
        images.append(x)
    np.testing.assert_array_equal(*images)


# --- errors


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_out_of_order(name: str) -> None:
    sampler = make_sampler(name, NoiseSchedule())
    x = ramp()
    with pytest.raises(ValueError, match=r"call set_timesteps\(n\) before the first step"):
        sampler.step(x, 0, x)
    sampler.set_timesteps(10)
    first, last = sampler.timesteps[0], sampler.timesteps[-1]
    with pytest.raises(
        ValueError,
        match=f"timestep 5 is none of the {len(sampler.timesteps)} that set_timesteps chose, from {first} to {last}",
    ):
        sampler.step(x, 5, x)


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, r"unknown sampler 'eul'.*'ddpm', 'ddim'", lambda: make_sampler("eul", NoiseSchedule())),
        (ValueError, r"eta must lie in \[0, 1\], got 1.5", lambda: DDIM(eta=1.5)),
        (ValueError, "'fixed_small', .*'learned_range'.*'learnt'", lambda: DDPM(variance_type="learnt")),
        (ValueError, "'epsilon', 'sample', 'v_prediction'.*'v'", lambda: DDIM(prediction_type="v")),
        (ValueError, "'leading', 'trailing', 'linspace'.*'log'", lambda: DDIM(timestep_spacing="log")),
        (ValueError, "clip_sample_range must be above 0, got -1", lambda: DDIM(clip_sample_range=-1)),
        (ValueError, "got 0.9 and 0", lambda: DDIM(dynamic_thresholding_ratio=0.9, sample_max_value=0)),
        (ValueError, "steps_offset must be at least 0, got -1", lambda: DDIM(steps_offset=-1)),
        (ValueError, "unknown beta_schedule 'cos'", lambda: DDPM(beta_schedule="cos")),
        (
            ValueError,
            "0 < sigma_min <= sigma_max, got 3 and 2",
            lambda: Euler(use_karras_sigmas=True, sigma_min=3, sigma_max=2).set_timesteps(5),
        ),
        (ValueError, "order must be from 1 to 4, got 5", lambda: LMS(order=5)),
        (
            ValueError,
            "original_inference_steps must be from 1 to 1000",
            lambda: LCM(original_inference_steps=0),
        ),
        (ValueError, "interpolation_type must be one of", lambda: Euler(interpolation_type="cubic")),
        (
            ValueError,
            "0 < sigma_min < sigma_max.*got 3.0, 2.0 and 7.0",
            lambda: EDMEuler(sigma_min=3.0, sigma_max=2.0),
        ),
        (ValueError, "prediction_type must be one of", lambda: EDMEuler(prediction_type="sample")),
        (ValueError, "number of steps must be at least 1, got 0", lambda: EDMEuler().set_timesteps(0)),
        (TypeError, "sigma_min", lambda: EulerAncestral(sigma_min=0.1)),  # type: ignore[call-arg]
        (TypeError, "clip_samples", lambda: DDIM(clip_samples=False)),  # type: ignore[call-arg]
        (TypeError, "give a NoiseSchedule, or its fields", lambda: DDIM(NoiseSchedule(), beta_end=0.5)),
        (TypeError, "give a NoiseSchedule, or its fields", lambda: DDIM("cosine")),  # type: ignore[arg-type]
    ],
)
def test_bad_options(error: type[Exception], message: str, make: Any) -> None:
    with pytest.raises(error, match=message):
        make()


def test_an_option_may_be_replaced() -> None:
    sampler = dataclasses.replace(DDIM(beta_end=0.012, rescale_betas_zero_snr=True), eta=0.5)
    assert repr(sampler) == "DDIM(beta_end=0.012, eta=0.5, rescale_betas_zero_snr=True)"


def test_schedule_fields_as_keywords() -> None:
    sampler = DDPM(num_train_timesteps=50, beta_schedule="cosine")
    assert sampler.schedule == NoiseSchedule(50, "cosine")
    assert sampler.init_noise_sigma == 1.0
    assert repr(sampler) == "DDPM(num_train_timesteps=50, beta_schedule='cosine')"
    assert DDPM(NoiseSchedule(50, "cosine")).config == sampler.config
