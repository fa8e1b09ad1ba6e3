"""The exponential integrators against numerical integration, closed forms and the limits of their options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff.diffusion import (
    DEIS,
    DPMSolverMultistep,
    DPMSolverSDE,
    DPMSolverSinglestep,
    FlowMatchEuler,
    UniPC,
)
from minidiff.diffusion.points import CLEAN, Point
from minidiff.diffusion.samplers.exponential import FORMULATIONS, LINES, Formulation, weights
from minidiff.random import Generator


def at(lam: float) -> Point:
    """The variance-preserving point of a lambda."""
    return Point((1 + math.exp(-2 * lam)) ** -0.5, (1 + math.exp(2 * lam)) ** -0.5)


def integral(f: Formulation, s: Point, t: Point, m: Any) -> float:
    """By Gauss and Legendre."""
    nodes, counts = np.polynomial.legendre.leggauss(40)
    h = t.lam - s.lam
    u = (nodes + 1) * h / 2
    return float(np.sum(counts * f.amplitude(t) * np.exp(f.rate * (h - u)) * m(u)) * h / 2)


@pytest.mark.parametrize("name", FORMULATIONS)
@pytest.mark.parametrize(
    "offsets", [[0.0], [0.0, -0.3], [0.0, -0.3, -0.7], [0.5, 0.0, -0.3], [0.0, -0.1, -0.3, -0.9]]
)
def test_weights_integrate_polynomials(name: str, offsets: list[float]) -> None:
    f, s, t = FORMULATIONS[name], at(0.2), at(0.7)
    points = [at(0.2 + u) if u else s for u in offsets]
    counts = weights(f, s, t, points)
    for k in range(len(offsets)):
        expected = integral(f, s, t, lambda u, k=k: u**k)
        assert sum(c * u**k for c, u in zip(counts, offsets, strict=True)) == pytest.approx(
            expected, rel=1e-9
        )


@pytest.mark.parametrize("name", FORMULATIONS)
def test_the_solution_is_exact(name: str) -> None:
    """Of a constant prediction every formulation gives the solution, and the SDE the right variance, in any steps."""
    f, s, t = FORMULATIONS[name], at(-1.0), at(0.5)
    scale, area = f.scale(s, t), f.area(s, t)
    if f.of_noise:  # x_s = alpha x_0 + sigma noise, so that x_0 = (x_s - sigma noise) / alpha
        assert scale * s.alpha == pytest.approx(t.alpha)
        if f.spread is None:
            assert scale * s.sigma + area == pytest.approx(t.sigma)
    else:
        assert scale * s.alpha + area == pytest.approx(t.alpha)
    if f.spread is not None and not f.of_noise:
        assert (scale * s.sigma) ** 2 + f.spread(s, t) ** 2 == pytest.approx(t.sigma**2)
    middle = at(0.1)
    if f.spread is not None:
        whole, second = f.spread(s, t) ** 2, f.spread(middle, t) ** 2
        assert (f.scale(middle, t) * f.spread(s, middle)) ** 2 + second == pytest.approx(whole)


def test_lines() -> None:
    f, s, t = FORMULATIONS["dpmsolver++"], at(0.0), at(0.4)
    expected = {
        "midpoint": t.alpha * (1 - math.exp(-0.4)) / 2 * 0.4,
        "heun": t.alpha * (0.4 - 1 + math.exp(-0.4)),
        "bh1": t.alpha * 0.4**2 / 2,
    }
    for name, value in expected.items():
        assert weights(f, s, t, [s, at(-0.3)], line=LINES[name])[1] * -0.3 == pytest.approx(value)
    assert LINES["bh2"] is LINES["midpoint"]


def test_the_ends() -> None:
    """A step to the clean image returns the prediction, one from pure noise forgets it; far points count nothing."""
    f, s = FORMULATIONS["dpmsolver++"], at(1.0)
    assert (f.scale(s, CLEAN), *weights(f, s, CLEAN, [s])) == (0.0, 1.0)
    pure = Point(0.0, 1.0)
    assert weights(f, pure, s, [pure]) == [s.alpha]
    assert weights(f, s, at(1.5), [s, pure]) == [*weights(f, s, at(1.5), [s]), 0.0]
    near = weights(f, s, at(1.5), [s, at(0.5)])
    assert weights(f, s, at(1.5), [s, at(0.5), pure]) == [*near, 0.0]
    assert weights(f, s, s, [s, at(0.5)]) == [0.0, 0.0]
    with pytest.raises(
        ValueError, match=r"a step of order 2 cannot end at sigma = 0.*lower_order_final=True"
    ):
        weights(f, s, CLEAN, [s, at(0.5)])


@pytest.mark.parametrize("cls", [DPMSolverMultistep, DPMSolverSinglestep, UniPC, DEIS])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000])
def test_any_number_of_steps(cls: Any, n: int) -> None:
    sampler = cls(solver_order=3)
    sampler.set_timesteps(n)
    x = np.ones((1, 1, 2, 2))
    for t in sampler.timesteps:
        x = sampler.step(0.5 * x, t, x).prev_sample
    assert len(sampler.timesteps) == n
    assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (DPMSolverMultistep, {"solver_order": 4}, "solver_order must be 1, 2 or 3, got 4"),
        (DPMSolverMultistep, {"solver_order": 0}, "solver_order must be at least 1, got 0"),
        (DPMSolverMultistep, {"algorithm_type": "euler"}, "algorithm_type must be one of .* got 'euler'"),
        (DPMSolverMultistep, {"solver_type": "rk"}, "solver_type one of .* 'rk'"),
        (DPMSolverMultistep, {"algorithm_type": "dpmsolver"}, "choose final_sigmas_type='sigma_min'"),
        (DPMSolverMultistep, {"variance_type": "range"}, "variance_type must be"),
        (DPMSolverMultistep, {"final_sigmas_type": "one"}, "final_sigmas_type must be one of"),
        (DPMSolverMultistep, {"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one of"),
        (DPMSolverSinglestep, {"algorithm_type": "sde-dpmsolver"}, "got 'sde-dpmsolver'"),
        (UniPC, {"predict_x0": False}, "choose final_sigmas_type='sigma_min'"),
        (UniPC, {"solver_type": "bh3"}, "solver_type must be one of"),
        (UniPC, {"shift_terminal": 0.1}, "use_flow_sigmas=True"),
        (UniPC, {"solver_p": "euler"}, "not supported"),
        (DEIS, {"solver_order": 4}, "solver_order must be 1, 2 or 3, got 4"),
        (FlowMatchEuler, {"shift": 0.0}, "shift must be above 0, got 0.0"),
    ],
)
def test_errors(cls: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)


@pytest.mark.parametrize("cls", [DPMSolverMultistep, UniPC, FlowMatchEuler])
def test_dynamic_shifting_needs_mu(cls: Any) -> None:
    with pytest.raises(ValueError, match="give mu= where use_dynamic_shifting is True"):
        cls(use_dynamic_shifting=True).set_timesteps(4)
    with pytest.raises(ValueError, match="give mu= where use_dynamic_shifting is True"):
        cls().set_timesteps(4, mu=1.0)
    with pytest.raises(ValueError, match="time_shift_type must be one of"):
        cls(use_dynamic_shifting=True, time_shift_type="cubic").set_timesteps(4, mu=1.0)


def test_mu_of_image_sizes() -> None:
    sampler = FlowMatchEuler(use_dynamic_shifting=True)
    assert sampler.mu(256) == 0.5
    assert sampler.mu(4096) == pytest.approx(1.15)
    sampler.set_timesteps(4, mu=sampler.mu(1024))
    shift = math.exp(0.5 + 0.65 * 768 / 3840)
    assert sampler.points[1].sigma == pytest.approx(shift * 0.667 / (1 + (shift - 1) * 0.667), rel=1e-9)


def test_steps_out_of_range() -> None:
    for n in (0, 1001):
        with pytest.raises(ValueError, match=f"{n} steps are not from 1 to the 1000 timesteps"):
            DPMSolverMultistep().set_timesteps(n)
    with pytest.raises(ValueError, match="timesteps= has no meaning"):
        DPMSolverMultistep(use_karras_sigmas=True).set_timesteps(timesteps=[900, 500])
    with pytest.raises(ValueError, match="sigmas must go down"):
        FlowMatchEuler().set_timesteps(sigmas=[0.5, 0.7])


def test_learned_variances_are_passed_over(backend: Any) -> None:
    plain, learned = DPMSolverMultistep(), DPMSolverMultistep(variance_type="learned_range")
    x = backend.from_numpy(np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2))
    output = backend.from_numpy(np.linspace(1, 3, 48, dtype=np.float32).reshape(2, 6, 2, 2))
    for sampler in (plain, learned):
        sampler.set_timesteps(4)
    expected = plain.step(output[:, :3, ...], plain.timesteps[0], x).prev_sample
    result = learned.step(output, learned.timesteps[0], x).prev_sample
    np.testing.assert_array_equal(backend.to_numpy(result), backend.to_numpy(expected))


def test_add_noise_follows_the_points() -> None:
    """With sigmas of the options' choice, and in flow matching, an image is as noisy as the sampler takes it to be."""
    x0, noise = np.full((2, 1, 1, 1), 2.0), np.ones((2, 1, 1, 1))
    sampler = UniPC(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    sampler.set_timesteps(10)
    point = sampler.points[4]
    expected = 2 * (1 - point.sigma) + point.sigma
    np.testing.assert_allclose(sampler.add_noise(x0, noise, point.timestep), expected)
    np.testing.assert_allclose(sampler.add_noise(x0, noise, [point.timestep] * 2), expected)
    training = DEIS()
    np.testing.assert_allclose(
        training.add_noise(x0, noise, np.asarray([3, 800])), training.schedule.add_noise(x0, noise, [3, 800])
    )


class Counting(Generator):
    def __init__(self) -> None:
        super().__init__(0)
        self.calls = 0

    def normal(self, shape: Any, *, dtype: Any = None) -> Any:
        self.calls += 1
        return super().normal(shape, dtype=dtype)


def test_no_noise_is_drawn_for_nothing() -> None:
    """The last step of an SDE leads to a clean image."""
    for sampler, draws in ((DPMSolverMultistep(algorithm_type="sde-dpmsolver++"), 4), (DPMSolverSDE(), 8)):
        rng = Counting()
        sampler.set_timesteps(5)
        x = rng.normal((1, 1, 2, 2)) * sampler.init_noise_sigma
        for t in sampler.timesteps:
            x = sampler.step(0 * x, t, x, rng=rng).prev_sample
        assert rng.calls == 1 + draws
    with pytest.raises(ValueError, match="adds noise: pass rng="):
        sampler.step(x, sampler.timesteps[0], x)


@pytest.mark.parametrize(("order", "tolerance"), [(1, 0.06), (2, 0.012), (3, 0.012)])
def test_the_sde_keeps_the_distribution(order: int, tolerance: float) -> None:
    """Of normal images and their best denoiser, samples of the SDE have the images' mean and variance.

    With diffusers' sign in the term of order 3 the standard deviation is off by 0.035.
    """
    mean, std, n = 0.3, 0.5, 40000
    sampler: Any = DPMSolverMultistep(
        algorithm_type="sde-dpmsolver++", solver_order=order, prediction_type="sample", use_karras_sigmas=True
    )
    sampler.set_timesteps(60)
    rng = Generator(3)
    x = rng.normal((n, 1, 1, 1), dtype=np.float64)
    for t, point in zip(sampler.timesteps, sampler.points, strict=False):
        gain = point.alpha * std**2 / ((point.alpha * std) ** 2 + point.sigma**2)
        x = sampler.step(mean + gain * (x - point.alpha * mean), t, x, rng=rng).prev_sample
    assert abs(x.mean() - mean) < 0.005
    assert abs(x.std() - std) < tolerance
