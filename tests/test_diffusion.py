"""The forward process, prediction types, guidance and the loss, against closed forms."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.autodiff import Parameter, value_and_grad
from minidiff.backend import Backend
from minidiff.diffusion import (
    BETA_SCHEDULES,
    PREDICTION_TYPES,
    NoiseSchedule,
    classifier_free_guidance,
    diffusion_loss,
    drop_labels,
    min_snr_weight,
    noise_like,
    sample_timesteps,
    target,
    to_sample_and_noise,
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


# --- prediction types


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_target_and_prediction_are_inverse(backend: Backend, kind: str) -> None:
    schedule = NoiseSchedule(beta_schedule="cosine")
    host = images(0, dtype="float64"), images(1, dtype="float64")
    x0, noise = map(backend.from_numpy, host)
    t = backend.from_numpy(np.array([0, 10, 500, 900]))
    alpha, sigma = schedule.alpha(t, x0), schedule.sigma(t, x0)
    y = target(kind, x0, noise, alpha, sigma)
    again = to_sample_and_noise(kind, y, schedule.add_noise(x0, noise, t), alpha, sigma)
    for got, expected in zip(again, host, strict=True):
        np.testing.assert_allclose(backend.to_numpy(got), expected, rtol=1e-9, atol=1e-9)


def test_targets() -> None:
    schedule, x0, noise = NoiseSchedule(), images(0), images(1)
    assert target("epsilon", x0, noise, 0.6, 0.8) is noise
    assert target("sample", x0, noise, 0.6, 0.8) is x0
    v = target("v_prediction", x0, noise, schedule.alpha(7), schedule.sigma(7))
    np.testing.assert_array_equal(v, schedule.get_velocity(x0, noise, 7))


def test_unknown_prediction_type() -> None:
    with pytest.raises(ValueError, match=r"'epsilon', 'sample', 'v_prediction'.*got 'noise'"):
        target("noise", images(0), images(1), 0.6, 0.8)


def test_min_snr_weights_are_those_of_the_paper() -> None:
    snr = np.array([0.01, 1.0, 5.0, 20.0, 1000.0])
    clipped = np.array([0.01, 1.0, 5.0, 5.0, 5.0])
    for kind, expected in {
        "epsilon": clipped / snr,
        "sample": clipped,
        "v_prediction": clipped / (snr + 1),
    }.items():
        np.testing.assert_allclose(min_snr_weight(kind, snr, 5.0), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="gamma must be above 0, got 0"):
        min_snr_weight("epsilon", snr, 0)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_min_snr_weighs_an_error_of_x0_alike_for_every_prediction_type(kind: str) -> None:
    """The same wrong x_0, said as noise, as v or as itself, costs the same."""
    schedule, x0, noise, t = NoiseSchedule(), images(0, dtype="float64"), images(1, dtype="float64"), 300
    alpha, sigma, snr = schedule.alpha(t), schedule.sigma(t), schedule.snr(t)
    x_t, wrong = schedule.add_noise(x0, noise, t), x0 + 0.1
    said = target(kind, wrong, (x_t - alpha * wrong) / sigma, alpha, sigma)
    error = np.mean((said - target(kind, x0, noise, alpha, sigma)) ** 2)
    assert error * min_snr_weight(kind, np.array([snr]), 5.0)[0] == pytest.approx(
        0.01 * min(snr, 5.0), rel=1e-9
    )


# --- draws


@pytest.mark.parametrize(("n", "total"), [(1, 10), (7, 1000), (64, 1000), (50, 20)])
def test_stratified_timesteps_are_even_in_a_batch_and_likely_alike(
    backend: Backend, n: int, total: int
) -> None:
    rng = Generator(3, backend)
    batches = np.stack(
        [
            backend.to_numpy(sample_timesteps(rng, n, total, stratified=True))
            for _ in range(4 * total // n + 40)
        ]
    )
    assert batches.dtype == np.int64
    assert batches.min() >= 0
    assert batches.max() < total
    gaps = np.diff(np.sort(batches, axis=1), axis=1)
    assert ((gaps == total // n) | (gaps == -(-total // n))).all()
    first = batches[:, 0]  # one place in the batch meets all timesteps
    assert abs(first.mean() / total - 0.5) < 4 * np.sqrt(1 / 12 / len(first))
    assert len(set(first.tolist())) > min(total, len(first)) / 2


def test_timesteps_are_uniform(backend: Backend) -> None:
    t = backend.to_numpy(sample_timesteps(Generator(3, backend), 20000, 10))
    assert t.dtype == np.int64
    counts = np.bincount(t, minlength=10)
    assert counts.shape == (10,)
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi squared, 9 degrees of freedom, p = 0.001


def test_noise_on_another_device_is_an_error(backend: Backend) -> None:
    if backend.device == "cpu":
        pytest.skip("needs a second library")
    with pytest.raises(
        TypeError, match=rf"draws on 'cpu'.*images are on '{backend.device}'.*Generator\(seed"
    ):
        noise_like(Generator(0), backend.from_numpy(images(0)))


def test_labels_are_dropped_with_their_probability(backend: Backend) -> None:
    labels = backend.from_numpy(np.arange(20000) % 10)
    dropped = backend.to_numpy(drop_labels(Generator(0, backend), labels, 10, 0.1))
    assert dropped.dtype == np.int64
    kept = dropped != 10
    np.testing.assert_array_equal(dropped[kept], (np.arange(20000) % 10)[kept])
    assert abs((~kept).mean() - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 20000)
    assert (backend.to_numpy(drop_labels(Generator(0, backend), labels, 10, 1.0)) == 10).all()
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        drop_labels(Generator(0, backend), labels, 10, 1.5)


# --- guidance


def recorded_model(calls: list[Any]) -> Any:
    """Its output is the label, so that guidance can be read off it."""

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        calls.append((x, t, labels))
        return ops.zeros_like(x) + ops.reshape(ops.astype(labels, x.dtype), (-1, 1, 1, 1))

    return model


@pytest.mark.parametrize(("scale", "batch"), [(0, 4), (1, 4), (2.0, 8), (7.5, 8), (-1, 8)])
def test_guidance(backend: Backend, scale: float, batch: int) -> None:
    calls: list[Any] = []
    labels = np.array([0, 1, 2, 3])
    denoise = classifier_free_guidance(recorded_model(calls), backend.from_numpy(labels), 10, scale)
    x, t = backend.from_numpy(images(0)), backend.from_numpy(np.array([7, 7, 7, 7]))
    y = backend.to_numpy(denoise(x, t))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[:, 0, 0, 0], 10 + scale * (labels - 10), rtol=1e-6)
    assert len(calls) == 1
    assert [c.shape[0] for c in calls[0]] == [batch] * 3
    np.testing.assert_array_equal(backend.to_numpy(calls[0][0])[-4:], images(0))
    assert backend.to_numpy(calls[0][2]).dtype == np.int64


@pytest.mark.parametrize("scale", [1, 3])
def test_guidance_needs_a_label_per_image(scale: float) -> None:
    denoise = classifier_free_guidance(recorded_model([]), np.array([1, 2]), 10, scale)
    with pytest.raises(ValueError, match="2 labels for 4 images"):
        denoise(images(0), np.array([7, 7, 7, 7]))


# --- the loss


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_loss_is_the_weighted_squared_error(backend: Backend, kind: str, gamma: float | None) -> None:
    """The draws are made again here, and the loss computed in float64."""
    schedule, seen = NoiseSchedule(beta_schedule="cosine"), []

    def model(x: Any, t: Any) -> Any:
        seen.append((backend.to_numpy(x), backend.to_numpy(t)))
        return x * 0.5

    loss = diffusion_loss(
        model,
        backend.from_numpy(images(0)),
        schedule=schedule,
        prediction_type=kind,
        rng=Generator(5, backend),
        min_snr_gamma=gamma,
    )
    rng = Generator(5)
    t, noise, x0 = (
        sample_timesteps(rng, 4, T),
        rng.normal(SHAPE).astype(np.float64),
        images(0).astype(np.float64),
    )
    x_t = schedule.add_noise(x0, noise, t)
    np.testing.assert_array_equal(seen[0][1], t)
    np.testing.assert_allclose(seen[0][0], x_t, rtol=1e-5, atol=1e-6)
    wanted = target(kind, x0, noise, schedule.alpha(t, x0), schedule.sigma(t, x0))
    weight = 1.0 if gamma is None else min_snr_weight(kind, schedule.snr(t, x0), gamma)
    assert loss.shape == ()
    assert str(loss.dtype).endswith("float32")
    assert float(loss) == pytest.approx(np.mean(weight * (0.5 * x_t - wanted) ** 2), rel=1e-5)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_loss_of_a_model_that_knows_the_answer_is_zero(kind: str) -> None:
    schedule, x0 = NoiseSchedule(), images(0)

    def model(x_t: Any, t: Any) -> Any:
        alpha, sigma = schedule.alpha(t, x0), schedule.sigma(t, x0)
        return target(kind, x0, (x_t - alpha * x0) / sigma, alpha, sigma)

    loss = diffusion_loss(model, x0, schedule=schedule, prediction_type=kind, rng=Generator(1))
    assert float(loss) < 1e-8


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_loss_is_recorded(backend: Backend, gamma: float | None) -> None:
    """d/dw mean((w x - y)^2) = 2 mean((w x - y) x) in central differences."""
    x0 = backend.from_numpy(images(0, dtype="float64"))
    w = Parameter(backend.from_numpy(np.asarray([0.3])))

    def loss() -> Any:
        return diffusion_loss(
            lambda x, _: w * x,
            x0,
            schedule=NoiseSchedule(),
            prediction_type="v_prediction",
            rng=Generator(2, backend),
            min_snr_gamma=gamma,
        )

    _, grads = value_and_grad(loss, {"w": w})()
    around = []
    for value in (0.3 + 1e-4, 0.3 - 1e-4):
        w.data = backend.from_numpy(np.asarray([value]))
        around.append(float(loss()))
    assert float(grads["w"][0]) == pytest.approx((around[0] - around[1]) / 2e-4, rel=1e-7)


def test_loss_passes_labels_and_drops_them() -> None:
    seen: list[Any] = []

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        seen.append(labels)
        return x

    common: dict[str, Any] = {"schedule": NoiseSchedule(), "prediction_type": "epsilon"}
    labels = np.arange(400) % 10
    x0 = images(0, (400, 1, 2, 2))
    diffusion_loss(model, x0, rng=Generator(0), labels=labels, **common)
    np.testing.assert_array_equal(seen.pop(), labels)
    diffusion_loss(model, x0, rng=Generator(0), labels=labels, null_label=10, null_probability=0.2, **common)
    assert 40 < (seen.pop() == 10).sum() < 120
    with pytest.raises(ValueError, match=r"null_probability=0\.1 needs labels and a null_label.*no labels"):
        diffusion_loss(model, x0, rng=Generator(0), null_label=10, null_probability=0.1, **common)
    with pytest.raises(ValueError, match="got null_label=None"):
        diffusion_loss(model, x0, rng=Generator(0), labels=labels, null_probability=0.1, **common)


def test_loss_refuses_a_prediction_type_before_it_runs_the_model() -> None:
    def model(*_: Any) -> Any:
        raise AssertionError("the model ran")

    with pytest.raises(ValueError, match="prediction_type must be one of"):
        diffusion_loss(model, images(0), schedule=NoiseSchedule(), prediction_type="x0", rng=Generator(0))
