"""Noise schedules and the forward process, against closed forms."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.diffusion import (
    BETA_SCHEDULES,
    GaussianDiffusion,
    NoiseSchedule,
    Point,
    noise_like,
)
from minidiff.random import Generator

T = 1000
SHAPE = (4, 3, 5, 6)


def images(seed: int, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def schedules() -> list[NoiseSchedule]:
    return [NoiseSchedule(beta_schedule=name) for name in BETA_SCHEDULES]


# --- schedules


def test_betas_are_those_of_the_papers() -> None:
    start, end, i = 1e-4, 0.02, np.arange(T)
    expected = {
        "linear": start + (end - start) * i / (T - 1),
        "scaled_linear": (start**0.5 + (end**0.5 - start**0.5) * i / (T - 1)) ** 2,
        "sigmoid": start + (end - start) * np.array([1 / (1 + math.exp(6 - 12 * k / (T - 1))) for k in i]),
    }
    expected["quadratic"] = expected["scaled_linear"]
    for name, betas in expected.items():
        got = NoiseSchedule(beta_schedule=name).betas
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, betas, rtol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "squaredcos_cap_v2"])
def test_cosine_is_equation_17_until_betas_reach_their_limit(name: str) -> None:
    schedule = NoiseSchedule(T, name)
    f = np.array([math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)])
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1], f[1:-1] / f[0], rtol=1e-9)
    assert schedule.betas[-1] == 0.999
    assert (schedule.betas[:-1] < 0.999).all()


def test_stable_diffusion_numbers() -> None:
    """Latent diffusion's configuration has alpha_bar 0.9991 first and 0.0047 last, sigma_max 14.6146."""
    schedule = NoiseSchedule(T, "scaled_linear", 0.00085, 0.012)
    assert schedule.alphas_cumprod[0] == pytest.approx(1 - 0.00085, rel=1e-12)
    assert schedule.alphas_cumprod[-1] == pytest.approx(0.0047, abs=5e-5)
    assert schedule.snr(T - 1) ** -0.5 == pytest.approx(14.6146, abs=1e-4)


@pytest.mark.parametrize("schedule", schedules(), ids=list(BETA_SCHEDULES))
def test_variance_is_preserved_and_noise_grows(schedule: NoiseSchedule) -> None:
    alpha, sigma = schedule.alpha(range(T)), schedule.sigma(range(T))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
    np.testing.assert_allclose(schedule.snr(range(T)), alpha**2 / sigma**2, rtol=1e-9)
    assert (np.diff(sigma) > 0).all()
    np.testing.assert_array_equal(schedule.alphas, 1 - schedule.betas)


@pytest.mark.parametrize("schedule", schedules(), ids=list(BETA_SCHEDULES))
def test_schedule_survives_json_and_its_arrays_are_read_only(schedule: NoiseSchedule) -> None:
    schedule.alpha(3)
    again = NoiseSchedule(**json.loads(json.dumps(dataclasses.asdict(schedule))))
    assert again == schedule
    np.testing.assert_array_equal(again.betas, schedule.betas)
    with pytest.raises(ValueError, match="read-only"):
        schedule.betas[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.beta_end = 0.5  # type: ignore[misc]


@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_one_timestep(name: str) -> None:
    schedule = NoiseSchedule(1, name)
    assert schedule.betas.shape == (1,)
    assert 0 < schedule.alphas_cumprod[0] < 1


@pytest.mark.parametrize(
    ("name", "alpha_bar"),
    [
        ("exp", lambda t: math.exp(-12 * t)),
        # half the time at signal-to-noise ratios above 1, spread as a Laplace distribution of its logarithm
        ("laplace", lambda t: 1 / math.sqrt(1 + (2 * min(t, 1 - t) + 1e-6) ** math.copysign(0.5, 0.5 - t))),
    ],
)
def test_curves_of_diffusers(name: str, alpha_bar: Any) -> None:
    schedule = NoiseSchedule(T, name)
    limited = int(np.argmax(schedule.betas == 0.999)) or T
    expected = [alpha_bar((t + 1) / T) / alpha_bar(0) for t in range(limited)]
    np.testing.assert_allclose(schedule.alphas_cumprod[:limited], expected, rtol=1e-9)


def test_trained_betas() -> None:
    betas = [0.1, 0.2, 0.5]
    schedule = NoiseSchedule(3, trained_betas=betas)
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.9, 0.72, 0.36], rtol=1e-12)
    assert NoiseSchedule(**json.loads(json.dumps(dataclasses.asdict(schedule)))) == schedule
    assert NoiseSchedule(3, trained_betas=[0.1, 0.2, 1.0]).alphas_cumprod[-1] == 0
    for wrong in ([0.1, 0.2], [0.1, 0.2, 1.5], [0.1, 1.0, 0.2], [0.1, math.nan, 0.2]):
        with pytest.raises(
            ValueError, match=r"num_train_timesteps=3 numbers above 0 and below 1.*got [23] from 0.1 to"
        ):
            NoiseSchedule(3, trained_betas=wrong)
    with pytest.raises(ValueError, match=r"got 3 from 0\.0 to 0\.2"):
        NoiseSchedule(3, trained_betas=[0.0, 0.1, 0.2])


def test_a_description_says_what_it_said_before_and_what_is_used_besides() -> None:
    """Runs compare descriptions before they go on, and checkpoints from before the newer fields have none of them."""
    old = {"num_train_timesteps": 1000, "beta_schedule": "cosine", "beta_start": 0.0001, "beta_end": 0.02}
    assert NoiseSchedule(**old).describe() == old
    new = {"rescale_betas_zero_snr": True, "trained_betas": (0.1, 0.2)}
    assert NoiseSchedule(2, **new).describe().items() >= new.items()
    for process in (GaussianDiffusion(NoiseSchedule(**old)), GaussianDiffusion(NoiseSchedule(2, **new))):
        description = json.loads(json.dumps(process.describe()))
        assert GaussianDiffusion.from_description(description) == process
    assert GaussianDiffusion(NoiseSchedule(**old)).describe()["schedule"] == old


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "sigmoid"])
def test_zero_terminal_snr(name: str) -> None:
    """Lin et al.: nothing is left of the image at the end, the first step is as before, sqrt(alpha_bar) is shifted."""
    plain, rescaled = (NoiseSchedule(T, name, rescale_betas_zero_snr=zero) for zero in (False, True))
    assert (rescaled.alpha(T - 1), rescaled.sigma(T - 1)) == (0.0, 1.0)
    assert rescaled.alpha(0) == pytest.approx(plain.alpha(0), rel=1e-12)
    slope = np.diff(np.sqrt(rescaled.alphas_cumprod)) / np.diff(np.sqrt(plain.alphas_cumprod))
    np.testing.assert_allclose(slope, slope[0], rtol=1e-6)
    assert rescaled.ratios[-1] == pytest.approx(4096, rel=1e-6)
    with pytest.raises(ValueError, match="2 timesteps or more, got 1"):
        NoiseSchedule(1, rescale_betas_zero_snr=True)


def test_points() -> None:
    point = NoiseSchedule().point(500)
    assert (point.alpha, point.sigma, point.timestep) == (
        NoiseSchedule().alpha(500),
        NoiseSchedule().sigma(500),
        500,
    )
    assert point.scale == pytest.approx(1, rel=1e-12)
    assert point.ratio == pytest.approx(NoiseSchedule().ratios[500], rel=1e-12)
    assert point.lam == pytest.approx(-math.log(point.ratio), rel=1e-12)
    assert (Point(1.0, 0.0).lam, Point(0.0, 1.0).lam, Point(0.0, 1.0).ratio) == (
        math.inf,
        -math.inf,
        math.inf,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_train_timesteps": 0}, "num_train_timesteps must be an integer from 1, got 0"),
        ({"num_train_timesteps": 10.0}, "got 10.0"),
        (
            {"beta_schedule": "exponential"},
            r"unknown beta_schedule 'exponential'.*'linear'.*'cosine'.*'sigmoid'",
        ),
        ({"beta_start": 0.0}, "beta_start=0.0, beta_end=0.02"),
        ({"beta_start": 0.03}, "beta_start=0.03, beta_end=0.02"),
        ({"beta_end": 1.0}, "beta_end=1.0"),
        ({"beta_end": float("nan")}, "beta_end=nan"),
    ],
)
def test_bad_schedules(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(**fields)


# --- the forward process


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_add_noise_and_velocity(backend: Backend, dtype: str) -> None:
    schedule = NoiseSchedule()
    x0, noise, t = images(0, dtype=dtype), images(1, dtype=dtype), np.array([0, 10, 500, 999])
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, T))[t].reshape(4, 1, 1, 1)
    a, s = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    device = [backend.from_numpy(x) for x in (x0, noise, t)]
    tolerance: dict[str, Any] = (
        {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}
    )
    for got, expected in [
        (schedule.add_noise(*device), a * x0 + s * noise),
        (schedule.get_velocity(*device), a * noise - s * x0),
    ]:
        assert backend.to_numpy(got).dtype == dtype
        np.testing.assert_allclose(backend.to_numpy(got), expected, **tolerance)


def test_timesteps_of_every_kind_give_the_same_bits(backend: Backend) -> None:
    schedule = NoiseSchedule(beta_schedule="cosine")
    host = images(0), images(1)
    x0, noise = map(backend.from_numpy, host)
    t = [700, 3, 700, 999]
    expected = schedule.add_noise(*host, np.array(t))
    for timesteps in (t, tuple(t), np.array(t, dtype=np.int32), backend.from_numpy(np.array(t))):
        np.testing.assert_array_equal(backend.to_numpy(schedule.add_noise(x0, noise, timesteps)), expected)
    one = schedule.add_noise(x0, noise, 700)
    np.testing.assert_array_equal(backend.to_numpy(one)[0], expected[0])
    again = schedule.add_noise(x0, noise, np.int64(700))
    np.testing.assert_array_equal(backend.to_numpy(again), backend.to_numpy(one))


def test_coefficients_without_images(backend: Backend) -> None:
    schedule = NoiseSchedule()
    assert type(schedule.alpha(5)) is float
    assert schedule.sigma([5, 6]).dtype == np.float64
    t = backend.from_numpy(np.array([5, 6]))
    got = backend.to_numpy(schedule.snr(t))
    assert got.dtype == (np.float64 if backend.device == "cpu" else np.float32)
    np.testing.assert_allclose(got, [schedule.snr(5), schedule.snr(6)], rtol=1e-6)


def test_images_of_two_dtypes_share_a_schedule(backend: Backend) -> None:
    schedule, t = NoiseSchedule(), backend.from_numpy(np.array([1, 2, 3, 4]))
    for dtype in ("float32", "float64", "float32"):
        x = backend.from_numpy(images(0, dtype=dtype))
        assert backend.to_numpy(schedule.alpha(t, x)).dtype == dtype


def test_device_timesteps_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch on a device is noised without a copy to the host, and the table is sent there once."""
    torch = pytest.importorskip("torch")
    schedule, x = NoiseSchedule(), torch.zeros(SHAPE)
    schedule.add_noise(x, x, torch.tensor([1, 2, 3, 4]))

    def forbidden(*_: Any) -> Any:
        raise AssertionError("read a device array, or sent a table again")

    for name in ("item", "tolist", "numpy", "__int__", "__float__", "__bool__", "__index__", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    monkeypatch.setattr("minidiff.diffusion.coefficients._send", forbidden)
    schedule.add_noise(x, x, torch.tensor([5, 6, 7, 8]))


def test_half_precision_images_stay_half_precision(backend: Backend) -> None:
    if backend.device == "strict":
        pytest.skip("the standard has no float16")
    x = backend.xp.astype(backend.from_numpy(images(0)), backend.xp.float16)
    t = backend.from_numpy(np.array([0, 10, 500, 999]))
    assert NoiseSchedule().add_noise(x, x, t).dtype == backend.xp.float16
    assert noise_like(Generator(0, backend), x).dtype == backend.xp.float16


def test_bfloat16_noise() -> None:
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    x = images(0).astype(bfloat16)
    assert noise_like(Generator(0), x).dtype == bfloat16
    assert NoiseSchedule().add_noise(x, x, [0, 10, 500, 999]).dtype == bfloat16


@pytest.mark.parametrize("schedule", schedules(), ids=list(BETA_SCHEDULES))
def test_posterior_is_bayes_rule(schedule: NoiseSchedule) -> None:
    """q(x_{t-1} | x_t, x_0) ~ q(x_t | x_{t-1}) q(x_{t-1} | x_0): precisions add, means are weighted by them."""
    x0, x_t = images(0, dtype="float64"), images(1, dtype="float64")
    for t in (1, 2, 500, T - 1):
        beta, before = schedule.betas[t], schedule.alphas_cumprod[t - 1]
        likelihood, prior = (1 - beta) / beta, 1 / (1 - before)
        mean, variance = schedule.posterior(x0, x_t, t)
        expected = likelihood * x_t / math.sqrt(1 - beta) + prior * math.sqrt(before) * x0
        assert variance == pytest.approx(1 / (likelihood + prior), rel=1e-9)
        np.testing.assert_allclose(mean, expected / (likelihood + prior), rtol=1e-9, atol=1e-12)


def test_posterior_per_image(backend: Backend) -> None:
    schedule, t = NoiseSchedule(), [0, 1, 500, 999]
    x0, x_t = backend.from_numpy(images(0)), backend.from_numpy(images(1))
    mean, variance = schedule.posterior(x0, x_t, backend.from_numpy(np.array(t)))
    assert tuple(variance.shape) == (4, 1, 1, 1)
    for i, one in enumerate(t):
        m, v = schedule.posterior(images(0), images(1), one)
        np.testing.assert_allclose(backend.to_numpy(mean)[i], m[i], rtol=1e-6, atol=1e-7)
        assert float(variance[i, 0, 0, 0]) == pytest.approx(v, rel=1e-6)
    np.testing.assert_allclose(backend.to_numpy(mean)[0], images(0)[0], rtol=1e-6)
    assert schedule.posterior(x0, x_t, 0)[1] == 0.0


@pytest.mark.parametrize("t", [T, -1, [0, 1, 2, T], np.array([0, -1, 2, 3])])
def test_timesteps_outside(t: Any) -> None:
    with pytest.raises(IndexError, match=r"timestep (1000|-1) is outside 0 to 999"):
        NoiseSchedule().add_noise(images(0), images(1), t)


def test_bad_images_and_timesteps(backend: Backend) -> None:
    schedule, x = NoiseSchedule(), backend.from_numpy(images(0))
    with pytest.raises(
        ValueError, match=r"timesteps of shape \(2,\) for images of shape \(4, 3, 5, 6\).*4 of them"
    ):
        schedule.add_noise(x, x, backend.from_numpy(np.array([1, 2])))
    with pytest.raises(TypeError, match="timesteps must be integers"):
        schedule.add_noise(x, x, backend.from_numpy(np.array([1.0, 2.0, 3.0, 4.0])))
    with pytest.raises(TypeError, match=r"timesteps must be integers, got 0\.5"):
        schedule.add_noise(x, x, 0.5)
    with pytest.raises(ValueError, match=r"x0 has shape \(4, 3, 5, 6\), noise has shape \(3, 3, 5, 6\)"):
        schedule.add_noise(x, x[:3, ...], 1)
    with pytest.raises(TypeError, match="mixed dtypes"):
        schedule.add_noise(x, backend.from_numpy(images(0, dtype="float64")), 1)
    pixels = backend.from_numpy(np.zeros(SHAPE, np.uint8))
    with pytest.raises(TypeError, match="x0 is uint8"):
        schedule.add_noise(pixels, pixels, 1)
