"""Which timesteps and noise levels samplers visit, against closed forms and the tables of papers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from minidiff.diffusion import (
    DDIM,
    DDPM,
    DEIS,
    KDPM2,
    LCM,
    PNDM,
    SAMPLERS,
    DDIMInverse,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    EDMEuler,
    Euler,
    FlowMatchEuler,
    FlowMatchHeun,
    Heun,
    KDPM2Ancestral,
    NoiseSchedule,
    Sampler,
    UniPC,
    make_sampler,
)
from minidiff.diffusion.samplers.beta_quantile import beta_quantile
from minidiff.diffusion.samplers.spacing import SIGMA_FAMILIES, timestep_of

SPACINGS = ["leading", "trailing", "linspace"]
FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def timesteps(sampler: Any, n: int) -> list[float]:
    sampler.set_timesteps(n)
    chosen: list[float] = sampler.timesteps
    return chosen


# --- timesteps


def test_timesteps_of_the_papers_table() -> None:
    """Lin et al., table 2: T = 1000 in 10 steps, counted from 1."""
    for spacing, expected in {
        "leading": [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
        "linspace": [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
        "trailing": [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
    }.items():
        assert [t + 1 for t in timesteps(DDIM(timestep_spacing=spacing), 10)] == expected


@pytest.mark.parametrize("total", [1, 7, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps(total: int, spacing: str) -> None:
    """n distinct timesteps, descending, in range, each next to where it should be."""
    exact: Any = {
        "leading": lambda n, i: (n - 1 - i) * (total // n),
        "trailing": lambda n, i: Fraction(total * (n - i), n) - 1,
        "linspace": lambda n, i: Fraction((total - 1) * (n - 1 - i), max(n - 1, 1)),
    }[spacing]
    sampler = DDIM(num_train_timesteps=total, timestep_spacing=spacing)
    for n in {*range(1, min(total, 60) + 1), *range(1, total + 1, 37), total}:
        chosen = timesteps(sampler, n)
        assert len(chosen) == n
        for i in {0, 1 % n, n // 3, n // 2, n - 1}:
            assert abs(chosen[i] - exact(n, i)) <= 0.5
        assert all(type(t) is int for t in chosen)
        assert len(set(chosen)) == n
        assert 0 <= chosen[-1] <= chosen[0] < total
        assert chosen == sorted(chosen, reverse=True)


def test_timesteps_of_sigma_samplers_are_not_rounded() -> None:
    assert timesteps(Euler(), 4) == [999.0, 666.0, 333.0, 0.0]
    assert timesteps(Euler(), 5)[1] == 749.25
    assert all(type(t) is float for t in timesteps(Euler(timestep_spacing="trailing"), 7))


def test_steps_offset() -> None:
    """The numbers of diffusers' test_steps_offset."""
    sampler = DDIM(steps_offset=1)
    assert timesteps(sampler, 5) == [801, 601, 401, 201, 1]
    assert timesteps(DDIMInverse(steps_offset=1), 5) == [1, 201, 401, 601, 801]
    assert timesteps(PNDM(steps_offset=1), 10) == [
        *(901, 851, 851, 801, 801, 751, 751, 701, 701, 651, 651, 601),
        *(601, 501, 401, 301, 201, 101, 1),
    ]
    for spacing in ("trailing", "linspace"):  # only "leading" has an offset
        assert timesteps(DDIM(steps_offset=1, timestep_spacing=spacing), 5)[0] == 999
    with pytest.raises(
        ValueError, match=r"steps_offset=1, 1000 steps begin at timestep 1000, past the last one, 999"
    ):
        sampler.set_timesteps(1000)


def test_timesteps_of_several_calls() -> None:
    assert timesteps(Heun(), 3) == [999.0, 499.5, 499.5, 0.0, 0.0]
    assert timesteps(PNDM(skip_prk_steps=True), 4) == [750, 500, 500, 250, 0]
    assert len(timesteps(KDPM2(), 5)) == len(timesteps(KDPM2Ancestral(), 5)) == 9


def test_midpoints_of_kdpm2() -> None:
    """The geometric mean of two sigmas, and the timestep that has it."""
    sampler = KDPM2()
    sampler.set_timesteps(6)
    before, middle, after = sampler.points[2:5]
    assert middle.sigma == pytest.approx(math.sqrt(before.sigma * after.sigma), rel=1e-12)
    assert np.interp(middle.timestep, range(1000), np.log(sampler.schedule.ratios)) == pytest.approx(
        math.log(middle.sigma), abs=1e-5
    )


def test_distilled_timesteps_of_lcm() -> None:
    """Every 20th of 1000, counted from the end; n of the 50, evenly."""
    assert timesteps(LCM(), 4) == [999, 759, 499, 259]
    assert timesteps(LCM(), 50) == list(range(999, 0, -20))
    with pytest.raises(ValueError, match="51 steps are not from 1 to original_inference_steps=50"):
        LCM().set_timesteps(51)


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(), Euler()])
def test_chosen_timesteps(sampler: Any) -> None:
    sampler.set_timesteps(timesteps=[900, 500, 40])
    assert sampler.timesteps == [900, 500, 40]
    assert sampler.points[1].ratio == pytest.approx(sampler.schedule.ratios[500], rel=1e-12)
    for wrong in ([500, 500], [40, 900], [1000, 3], [3, -1], [], np.array([40, 900]), [900, math.nan]):
        with pytest.raises(ValueError, match="timesteps must go down from 999 at most to 0 at least"):
            sampler.set_timesteps(timesteps=wrong)
    for arguments in ({}, {"num_inference_steps": 3, "timesteps": [3, 2, 1]}):
        with pytest.raises(ValueError, match="a number of steps, or timesteps="):
            sampler.set_timesteps(**arguments)


def test_chosen_timesteps_of_several_calls() -> None:
    """Each step leads to the next one that was chosen, and half of a step to its middle."""
    sampler = PNDM()
    sampler.set_timesteps(timesteps=[900, 700, 660, 500, 40])
    assert sampler.timesteps == [*(900, 800, 800, 700), *(700, 680, 680, 660), *(660, 580, 580, 500), 500, 40]
    sampler = PNDM(skip_prk_steps=True)
    sampler.set_timesteps(timesteps=[900, 700, 40])
    assert sampler.timesteps == [900, 700, 700, 40]
    inverse = DDIMInverse()
    inverse.set_timesteps(timesteps=[900, 500, 40])
    assert inverse.timesteps == [40, 500, 900]
    assert [p.sigma for p in inverse.points[1:]] == [inverse.schedule.sigma(t) for t in (40, 500, 900)]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [0, -1, 1001])
def test_impossible_numbers_of_steps(name: str, n: int) -> None:
    with pytest.raises(ValueError, match=rf"{n} steps are not from 1 to (the 1000 timesteps|original_inf)"):
        make_sampler(name, NoiseSchedule()).set_timesteps(n)


@pytest.mark.parametrize("sampler", [DDIM(), UniPC(), EDMEuler(), FlowMatchEuler(), FlowMatchHeun()])
def test_parts_of_steps_are_refused(sampler: Sampler) -> None:
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        sampler.set_timesteps(7.5)  # type: ignore[arg-type]


def test_runge_kutta_needs_four_steps() -> None:
    with pytest.raises(ValueError, match="at least 4 steps are needed, got 3; skip_prk_steps=True"):
        PNDM().set_timesteps(3)


# --- sigmas


def test_families_of_sigmas() -> None:
    """From the highest to the lowest; what is evenly spaced is sigma^(1/7), or log sigma."""
    for name, family in SIGMA_FAMILIES.items():
        sigmas = family(0.02, 80.0, 9)
        np.testing.assert_allclose(sigmas[[0, -1]], [80.0, 0.02], rtol=1e-9, err_msg=name)
        assert (np.diff(sigmas) < 0).all()
    for name, even in {"karras": lambda s: s ** (1 / 7), "exponential": np.log, "lambda": np.log}.items():
        gaps = np.diff(even(SIGMA_FAMILIES[name](0.02, 80.0, 9)))
        np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9)


def test_karras_sigmas_of_the_paper() -> None:
    """Karras et al., eq. 5 with their defaults and 18 steps: the sigmas that the published samples use."""
    sampler = EDMEuler()
    sampler.set_timesteps(18)
    sigmas = [point.sigma for point in sampler.points]
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    np.testing.assert_allclose(sigmas, [*expected, 0.0], rtol=1e-9)
    np.testing.assert_allclose(sampler.timesteps, np.log(expected) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("a", "quantile"),
    [(1.0, lambda q: q), (0.5, lambda q: np.sin(np.pi * q / 2) ** 2), (2.0, None), (0.6, None)],
)
def test_beta_quantile(a: float, quantile: Any) -> None:
    """Closed forms at 1 and 1/2; otherwise the density, integrated numerically up to the quantile, gives q."""
    q = np.array([0.0, 1e-6, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0])
    x = beta_quantile(q, a)
    if quantile is not None:
        np.testing.assert_allclose(x, quantile(q), rtol=1e-9, atol=1e-15)
        return
    angle = np.linspace(0, 1, 200_001)[:, None] * np.arcsin(np.sqrt(x))  # x = sin^2: no pole at the ends
    density = 2 * (np.sin(angle) * np.cos(angle)) ** (2 * a - 1)
    area = np.trapezoid(density, angle, axis=0) * math.gamma(2 * a) / math.gamma(a) ** 2
    np.testing.assert_allclose(area, q, atol=2e-6)


def test_timesteps_have_their_sigmas() -> None:
    schedule = NoiseSchedule(beta_schedule="scaled_linear")
    t = np.array([0.0, 3.0, 500.0, 999.0])
    np.testing.assert_allclose(timestep_of(schedule.ratios[t.astype(int)], schedule.ratios), t, atol=1e-9)
    np.testing.assert_allclose(timestep_of(np.array([1e9, 0.0]), schedule.ratios), [999, 0])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_sigmas_of_euler(spacing: str) -> None:
    sampler = Euler(timestep_spacing=spacing)
    sampler.set_timesteps(10)
    for point in sampler.points[:-1]:
        assert point.alpha == 1
        assert point.sigma == pytest.approx(
            np.interp(point.timestep, range(1000), sampler.schedule.ratios), rel=1e-6
        )
    highest = sampler.points[0].sigma
    expected = math.hypot(highest, 1) if spacing == "leading" else highest
    assert sampler.init_noise_sigma == pytest.approx(expected, rel=1e-12)
    assert sampler.points[-1].sigma == 0


def test_options_of_euler() -> None:
    """Stable Diffusion's highest sigma is 14.6146, its lowest 0.0292."""
    stable = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    assert Euler(**stable).init_noise_sigma == pytest.approx(14.6146, abs=1e-4)
    for options, first, last in [
        ({"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0}, 9.0, 0.0),
        ({"final_sigmas_type": "sigma_min"}, 14.6146, 0.0292),
        ({"interpolation_type": "log_linear"}, 14.6146, 0.0292),
    ]:
        sampler = Euler(**stable, **options)
        sampler.set_timesteps(5)
        assert sampler.points[0].sigma == pytest.approx(first, abs=1e-4)
        assert sampler.points[-1].sigma == pytest.approx(last, abs=1e-4)
    sampler = Euler(**stable, timestep_type="continuous", prediction_type="v_prediction")
    assert timesteps(sampler, 5)[0] == pytest.approx(math.log(14.6146) / 4, abs=1e-5)
    with pytest.raises(ValueError, match=r"only one of \['use_karras_sigmas', 'use_beta_sigmas'\]"):
        Euler(use_karras_sigmas=True, use_beta_sigmas=True)


def test_karras_timesteps_are_rounded_where_diffusers_rounds_them() -> None:
    assert all(t == round(t) for t in timesteps(KDPM2(use_karras_sigmas=True), 6)[::2])
    assert any(t != round(t) for t in timesteps(Heun(use_karras_sigmas=True), 6))


# --- sigmas of flow matching


@pytest.mark.parametrize("wrong", [[], [0.5, 0.9], [1.5, 0.1], [0.5, 0.0], [math.nan]])
def test_chosen_sigmas(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="sigmas must go down from 1 at most to above 0, got"):
        FlowMatchEuler().set_timesteps(sigmas=wrong)


@pytest.mark.parametrize("sampler", [FlowMatchEuler(shift_terminal=0.1), UniPC(**FLOW, shift_terminal=0.1)])
def test_a_terminal_sigma_needs_two_steps(sampler: Any) -> None:
    sampler.set_timesteps(2)
    assert sampler.points[1].sigma == pytest.approx(0.1, rel=1e-9)
    with pytest.raises(ValueError, match=r"shift_terminal=0.1 needs 2 steps or more: the first sigma is 1"):
        sampler.set_timesteps(1)


@pytest.mark.parametrize("cls", [DEIS, DPMSolverMultistep, DPMSolverSinglestep, UniPC])
def test_sigmas_of_flow_matching_are_not_above_one(cls: Any) -> None:
    for curve in ("karras", "exponential", "beta"):
        if (cls, curve) != (UniPC, "karras"):
            with pytest.raises(ValueError, match=f"use_flow_sigmas sigmas are from 0 to 1.*{curve} curve"):
                cls(**FLOW, **{f"use_{curve}_sigmas": True})
