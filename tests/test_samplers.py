"""Samplers against the numbers that diffusers publishes, and against distributions with a known answer."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.diffusion import (
    DDIM,
    DDPM,
    PREDICTION_TYPES,
    SAMPLERS,
    NoiseSchedule,
    Sampler,
    classifier_free_guidance,
    make_sampler,
    sample,
    target,
)
from minidiff.random import Generator

SHAPE = (4, 3, 8, 8)
SIZE = math.prod(SHAPE)


class Replay(Generator):
    """A generator whose noise somebody else made."""

    def __init__(self, backend: Any, make: Any) -> None:
        super().__init__(0, backend)
        self._make = make

    def normal(self, shape: Any, *, dtype: Any = None) -> Any:
        return self._make(tuple(shape))


def ramp() -> np.ndarray[Any, Any]:
    """The deterministic image of diffusers' tests/schedulers (`dummy_sample_deter`)."""
    return (np.arange(SIZE, dtype=np.float32).reshape(3, 8, 8, 4) / np.float32(SIZE)).transpose(3, 0, 1, 2)


def reversed_ramp() -> np.ndarray[Any, Any]:
    """Its deterministic noise (`dummy_noise_deter`)."""
    return (np.arange(SIZE, dtype=np.float32)[::-1].reshape(3, 8, 8, 4) / np.float32(SIZE)).transpose(
        3, 0, 1, 2
    )


def dummy_model(x: Any, t: int) -> Any:
    return x * (t / (t + 1))


def run(sampler: Sampler, x: Any, timesteps: list[int], rng: Generator | None = None) -> Any:
    for t in timesteps:
        x = sampler.step(dummy_model(x, t), t, x, rng=rng).prev_sample
    return x


def assert_golden(backend: Backend, x: Any, total: float, mean: float, tolerance: float = 1e-2) -> None:
    host = np.abs(backend.to_numpy(x))
    assert host.dtype == np.float32
    assert abs(host.sum() - total) < tolerance
    assert abs(host.mean() - mean) < 1e-3


# --- published numbers: tests/schedulers/test_scheduler_ddim.py and test_scheduler_ddpm.py of diffusers


@pytest.mark.parametrize(
    ("options", "total", "mean"),
    [
        ({}, 172.0067, 0.223967),
        ({"prediction_type": "v_prediction"}, 52.5302, 0.0684),
        ({"set_alpha_to_one": True, "beta_start": 0.01}, 149.8295, 0.1951),
        ({"set_alpha_to_one": False, "beta_start": 0.01}, 149.0784, 0.1941),
    ],
)
def test_ddim_full_loop(backend: Backend, options: dict[str, Any], total: float, mean: float) -> None:
    sampler = DDIM(**options)
    sampler.set_timesteps(10)
    assert_golden(backend, run(sampler, backend.from_numpy(ramp()), sampler.timesteps), total, mean)


def test_ddim_from_the_middle(backend: Backend) -> None:
    sampler = DDIM()
    sampler.set_timesteps(10)
    timesteps = sampler.timesteps[8:]
    x = sampler.add_noise(backend.from_numpy(ramp()), backend.from_numpy(reversed_ramp()), timesteps[0])
    assert_golden(backend, run(sampler, x, timesteps), 354.5418, 0.4616)


@pytest.mark.parametrize(
    ("options", "start", "total", "mean", "tolerance"),
    [
        ({}, 0, 258.9606, 0.3372, 1e-2),
        ({"prediction_type": "v_prediction"}, 0, 202.0296, 0.2631, 1e-2),
        ({}, 998, 387.9466, 0.5051, 3e-2),
    ],
)
def test_ddpm_full_loop(
    backend: Backend, options: dict[str, Any], start: int, total: float, mean: float, tolerance: float
) -> None:
    """Diffusers draws this noise with torch's generator of seed 0.

    The last case takes only the steps t = 1 and 0, where 1 - alpha_bar is 1e-4. Diffusers subtracts in float32,
    which leaves three digits; in float64 the same formulas give 387.9672.
    """
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    rng = Replay(backend, lambda shape: backend.from_numpy(torch.randn(shape, generator=generator).numpy()))
    sampler = DDPM(**options)
    sampler.set_timesteps(1000)
    x, timesteps = backend.from_numpy(ramp()), sampler.timesteps[start:]
    if start:
        x = sampler.add_noise(x, backend.from_numpy(reversed_ramp()), timesteps[0])
    assert_golden(backend, run(sampler, x, timesteps, rng), total, mean, tolerance)


def noise_scale(sampler: Sampler, steps: int, t: int) -> float:
    """Standard deviation of the noise that a step adds."""
    sampler.set_timesteps(steps)
    x = np.zeros((1, 1, 1, 1))
    return float(sampler.step(x, t, x, rng=Replay("cpu", np.ones)).prev_sample[0, 0, 0, 0])


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
        (DDPM(variance_type="fixed_large", timestep_spacing="trailing"), 10, 99, 0.0),
    ],
)
def test_variance(sampler: Sampler, steps: int, t: int, variance: float) -> None:
    assert noise_scale(sampler, steps, t) ** 2 == pytest.approx(variance, abs=1e-5)


def test_fixed_large_is_beta() -> None:
    sampler = DDPM(variance_type="fixed_large")
    assert noise_scale(sampler, 1000, 100) == pytest.approx(sampler.schedule.betas[100] ** 0.5, rel=1e-9)
    a = sampler.schedule.alphas_cumprod
    assert noise_scale(sampler, 10, 900) ** 2 == pytest.approx(1 - a[900] / a[800], rel=1e-9)


# --- timesteps


def test_timesteps_of_the_papers_table() -> None:
    """Lin et al., table 2: T = 1000 in 10 steps, counted from 1."""
    for spacing, expected in {
        "leading": [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
        "linspace": [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
        "trailing": [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
    }.items():
        sampler = DDIM(timestep_spacing=spacing)
        sampler.set_timesteps(10)
        assert [t + 1 for t in sampler.timesteps] == expected


@pytest.mark.parametrize("total", [1, 7, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_number_of_steps(total: int, spacing: str) -> None:
    """n distinct timesteps, descending, in range, each next to where it should be."""
    exact: Any = {
        "leading": lambda n, i: (n - 1 - i) * (total // n),
        "trailing": lambda n, i: Fraction(total * (n - i), n) - 1,
        "linspace": lambda n, i: Fraction((total - 1) * (n - 1 - i), max(n - 1, 1)),
    }[spacing]
    sampler = DDIM(num_train_timesteps=total, timestep_spacing=spacing)
    for n in range(1, total + 1):
        sampler.set_timesteps(n)
        assert len(sampler.timesteps) == n
        for i in {0, 1 % n, n // 3, n // 2, n - 1}:
            assert abs(sampler.timesteps[i] - exact(n, i)) <= 0.5
        assert all(type(t) is int for t in sampler.timesteps)
        assert len(set(sampler.timesteps)) == n
        assert 0 <= sampler.timesteps[-1] <= sampler.timesteps[0] < total
        assert sampler.timesteps == sorted(sampler.timesteps, reverse=True)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_step_leads_to_the_next_timestep(spacing: str) -> None:
    """Of a model that knows image and noise, every step is a point of the forward process."""
    x0, eps = ramp().astype(np.float64), reversed_ramp().astype(np.float64)
    sampler = DDIM(timestep_spacing=spacing)
    sampler.set_timesteps(7)
    x = sampler.add_noise(x0, eps, sampler.timesteps[0])
    for t, following in zip(sampler.timesteps, [*sampler.timesteps[1:], None], strict=True):
        x = sampler.step(eps, t, x).prev_sample
        expected = x0 if following is None else sampler.add_noise(x0, eps, following)
        np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-9)


def test_steps_offset() -> None:
    """The number of diffusers' test_steps_offset."""
    sampler = DDIM(steps_offset=1)
    sampler.set_timesteps(5)
    assert sampler.timesteps == [801, 601, 401, 201, 1]
    with pytest.raises(
        ValueError, match=r"steps_offset=1, 1000 steps begin at timestep 1000, past the last one, 999"
    ):
        sampler.set_timesteps(1000)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [0, -1, 1001])
def test_impossible_numbers_of_steps(name: str, n: int) -> None:
    with pytest.raises(ValueError, match=rf"{n} steps are not from 1 to the 1000 timesteps"):
        make_sampler(name, NoiseSchedule()).set_timesteps(n)


# --- known answers


def exact_model(kind: str, schedule: NoiseSchedule, mean: float, std: float) -> Any:
    """The best possible prediction for images whose pixels are N(mean, std^2), independent of each other."""

    def model(x: Any, t: Any) -> Any:
        alpha, sigma = schedule.alpha(t, x), schedule.sigma(t, x)
        x0 = mean + (x - alpha * mean) * (alpha * std**2 / (alpha**2 * std**2 + sigma**2))
        return target(kind, x0, (x - alpha * x0) / sigma, alpha, sigma)

    return model


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("ddim", {"timestep_spacing": "trailing"}, 200),
        ("ddim", {"timestep_spacing": "linspace", "eta": 0.5}, 200),
        ("ddpm", {}, 1000),
        ("ddpm", {"variance_type": "fixed_large"}, 1000),
    ],
)
def test_a_gaussian_is_recovered(name: str, options: dict[str, Any], steps: int, kind: str) -> None:
    schedule = NoiseSchedule(beta_schedule="cosine")
    sampler = make_sampler(name, schedule, prediction_type=kind, clip_sample=False, **options)
    model = exact_model(kind, schedule, 0.4, 0.3)
    x = sample(model, (2000, 1, 1, 2), sampler, steps=steps, rng=Generator(1))
    assert x.dtype == np.float32
    assert x.mean() == pytest.approx(0.4, abs=4 * 0.3 / math.sqrt(4000))
    assert x.std() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_one_image_is_recovered_in_any_number_of_steps(kind: str, steps: int, spacing: str) -> None:
    """A model that knows the only image there is: every DDIM path ends in it."""
    schedule = NoiseSchedule()
    sampler = DDIM(schedule, prediction_type=kind, timestep_spacing=spacing)
    model = exact_model(kind, schedule, 0.25, 0.0)
    x = sample(model, (1, 1, 2, 2), sampler, steps=steps, rng=Generator(4))
    np.testing.assert_allclose(x, 0.25, atol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_ddim_with_eta_one_is_ddpm(kind: str, spacing: str) -> None:
    """Song et al., section 4.1: both take the same steps from the same noise."""
    ends = []
    for sampler in (DDIM(eta=1.0, timestep_spacing=spacing, clip_sample=False, prediction_type=kind),
                    DDPM(timestep_spacing=spacing, clip_sample=False, prediction_type=kind)):  # fmt: skip
        sampler.set_timesteps(30)
        x, rng = ramp().astype(np.float64), Generator(0)
        for t in sampler.timesteps:
            x = sampler.step(np.sin(7 * x), t, x, rng=rng).prev_sample
        ends.append(x)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid", "scaled_linear"])
def test_eta_is_possible_at_every_step(schedule: str) -> None:
    """1 - a_prev - sigma^2 never falls below zero, where its root would fail."""
    for steps in (1000, 999, 501, 3, 1):
        for to_one in (True, False):
            sampler = DDIM(
                beta_schedule=schedule, eta=1.0, set_alpha_to_one=to_one, timestep_spacing="trailing"
            )
            sampler.set_timesteps(steps)
            x = np.zeros((1, 1, 1, 1), np.float32)
            rng = Replay("cpu", np.zeros)
            assert all(
                np.isfinite(sampler.step(x, t, x, rng=rng).prev_sample).all() for t in sampler.timesteps
            )


# --- clipping


@pytest.mark.parametrize("sampler_type", [DDIM, DDPM])
def test_the_clean_image_is_clipped(backend: Backend, sampler_type: Any) -> None:
    x = backend.from_numpy(ramp() * 10 - 5)
    for options, low, high in [({}, -1.0, 1.0), ({"clip_sample_range": 2.0}, -2.0, 2.0)]:
        sampler = sampler_type(prediction_type="sample", **options)
        sampler.set_timesteps(10)
        x0 = backend.to_numpy(sampler.step(x, 0, x).pred_original_sample)
        assert (x0.min(), x0.max()) == (low, high)
    sampler = sampler_type(prediction_type="sample", clip_sample=False)
    sampler.set_timesteps(10)
    np.testing.assert_array_equal(
        backend.to_numpy(sampler.step(x, 0, x).pred_original_sample), ramp() * 10 - 5
    )


def test_noise_after_clipping() -> None:
    """By default the model's own noise is used; `use_clipped_model_output` fits it to the clipped image."""
    x, eps = np.full((1, 1, 1, 1), 5.0), np.full((1, 1, 1, 1), 0.5)
    for fitted in (False, True):
        sampler = DDIM(use_clipped_model_output=fitted)
        sampler.set_timesteps(10)
        a, a_prev = sampler.schedule.alphas_cumprod[[500, 400]]
        noise = (5.0 - math.sqrt(a)) / math.sqrt(1 - a) if fitted else 0.5
        got = sampler.step(eps, 500, x).prev_sample[0, 0, 0, 0]
        assert got == pytest.approx(math.sqrt(a_prev) + math.sqrt(1 - a_prev) * noise, rel=1e-12)


# --- the loop


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_library_draws_the_same_image(backend: Backend, name: str, kind: str) -> None:
    def draw(where: Any) -> Any:
        schedule = NoiseSchedule(beta_schedule="cosine")
        sampler = make_sampler(name, schedule, prediction_type=kind)
        return sample(lambda x, _: 0.9 * x, SHAPE, sampler, steps=13, rng=Generator(9, where))

    x = draw(backend)
    assert isinstance(x, backend.array_type)
    np.testing.assert_array_equal(backend.to_numpy(x), draw("cpu"))
    assert backend.to_numpy(x).dtype == np.float32


@pytest.mark.parametrize("terminal", [True, False])
def test_the_loop_tells_what_it_does(
    backend: Backend, terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, told = [], []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)

    def denoise(x: Any, t: Any) -> Any:
        seen.append(backend.to_numpy(t))
        return x * 0

    x = sample(
        denoise,
        (3, 1, 2, 2),
        DDIM(),
        steps=4,
        rng=Generator(0, backend),
        callback=lambda *told_now: told.append(told_now),
        progress=True,
    )
    assert [t.tolist() for t in seen] == [[750] * 3, [500] * 3, [250] * 3, [0] * 3]
    assert all(t.dtype == np.int64 for t in seen)
    assert [(i, t) for i, t, _, _ in told] == [(0, 750), (1, 500), (2, 250), (3, 0)]
    assert told[-1][2] is x
    assert tuple(told[-1][3].shape) == (3, 1, 2, 2)
    assert ("sampling" in capsys.readouterr().err) == terminal


def test_the_loop_begins_where_it_is_told() -> None:
    initial = ramp()
    sampler = DDIM()
    x = sample(
        lambda x, t: dummy_model(x, int(t[0])), SHAPE, sampler, steps=10, rng=Generator(0), initial=initial
    )
    assert np.abs(x).sum() == pytest.approx(172.0067, abs=1e-2)
    np.testing.assert_array_equal(initial, ramp())
    with pytest.raises(ValueError, match=r"initial has shape \(4, 3, 8, 8\), expected \(2, 3, 8, 8\)"):
        sample(dummy_model, (2, 3, 8, 8), sampler, steps=1, rng=Generator(0), initial=initial)


def test_the_loop_scales_what_the_sampler_wants_scaled() -> None:
    class Scaled(DDIM):
        init_noise_sigma = 100.0

        def scale_model_input(self, sample: Any, timestep: int) -> Any:
            return sample / 100 + timestep

    seen = []
    sample(lambda x, _: seen.append(x) or 0 * x, SHAPE, Scaled(), steps=2, rng=Generator(0))
    np.testing.assert_allclose(seen[0], Generator(0).normal(SHAPE) + 500, rtol=1e-6)


def test_ctrl_c_leaves_the_loop() -> None:
    def denoise(x: Any, t: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(denoise, SHAPE, DDIM(), steps=2, rng=Generator(0))


def test_guided_samples_go_to_their_class(backend: Backend) -> None:
    """Class k is the one image of colour k / 4; the unguided model knows only their mean."""
    schedule = NoiseSchedule()

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        colour = backend.xp.astype(labels, backend.xp.float32) / 4
        colour = backend.xp.reshape(backend.xp.where(labels == 9, 0.25 + 0 * colour, colour), (-1, 1, 1, 1))
        return colour + 0 * x

    labels = backend.from_numpy(np.array([0, 1, 2]))
    for scale, expected in [(0, [0.25, 0.25, 0.25]), (1, [0, 0.25, 0.5]), (2, [-0.25, 0.25, 0.75])]:
        denoise = classifier_free_guidance(model, labels, 9, scale)
        sampler = DDIM(schedule, prediction_type="sample")
        x = sample(denoise, (3, 1, 2, 2), sampler, steps=5, rng=Generator(0, backend))
        np.testing.assert_allclose(backend.to_numpy(x)[:, 0, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_half_precision_in_and_out(name: str) -> None:
    sampler = make_sampler(name, NoiseSchedule())
    initial = ramp().astype(np.float16)
    x = sample(lambda x, _: x, SHAPE, sampler, steps=3, rng=Generator(0), initial=initial)
    assert x.dtype == np.float16
    assert np.isfinite(x).all()


# --- errors


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_out_of_order(name: str) -> None:
    sampler = make_sampler(name, NoiseSchedule())
    x = ramp()
    with pytest.raises(ValueError, match=r"call set_timesteps\(n\) before the first step"):
        sampler.step(x, 0, x)
    sampler.set_timesteps(10)
    with pytest.raises(
        ValueError, match="timestep 5 is none of the 10 that set_timesteps chose, from 900 down to 0"
    ):
        sampler.step(x, 5, x)


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(eta=0.1)])
def test_noise_needs_a_generator(sampler: Sampler) -> None:
    sampler.set_timesteps(10)
    with pytest.raises(ValueError, match=r"adds noise: pass rng=minidiff.random.Generator\(seed"):
        sampler.step(ramp(), 900, ramp())


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (
            ValueError,
            r"unknown sampler 'euler'.*'ddpm', 'ddim'",
            lambda: make_sampler("euler", NoiseSchedule()),
        ),
        (ValueError, r"eta must lie in \[0, 1\], got 1.5", lambda: DDIM(eta=1.5)),
        (ValueError, "'fixed_small', 'fixed_large'.*'learned'", lambda: DDPM(variance_type="learned")),
        (ValueError, "'epsilon', 'sample', 'v_prediction'.*'v'", lambda: DDIM(prediction_type="v")),
        (ValueError, "'leading', 'trailing', 'linspace'.*'log'", lambda: DDIM(timestep_spacing="log")),
        (ValueError, "got -1 and 0", lambda: DDIM(clip_sample_range=-1)),
        (ValueError, "got 1.0 and -1", lambda: DDIM(steps_offset=-1)),
        (TypeError, r"DDIM: unknown options \['clip_samples'\]", lambda: DDIM(clip_samples=False)),
        (TypeError, "give a NoiseSchedule, or its fields", lambda: DDIM(NoiseSchedule(), beta_end=0.5)),
        (TypeError, "give a NoiseSchedule, or its fields", lambda: DDIM("cosine")),  # type: ignore[arg-type]
        (ValueError, "unknown beta_schedule 'cos'", lambda: DDPM(beta_schedule="cos")),
    ],
)
def test_bad_options(error: type[Exception], message: str, make: Any) -> None:
    with pytest.raises(error, match=message):
        make()


def test_schedule_fields_as_keywords() -> None:
    sampler = DDPM(num_train_timesteps=50, beta_schedule="cosine")
    assert sampler.schedule == NoiseSchedule(50, "cosine")
    assert sampler.num_train_timesteps == 50
    assert sampler.init_noise_sigma == 1.0
    assert "cosine" in repr(sampler)
