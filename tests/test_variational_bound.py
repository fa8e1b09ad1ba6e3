"""The variational bound and what learns from it, against closed forms and Gaussian images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.autodiff import Parameter, value_and_grad
from minidiff.backend import Backend, backend_of
from minidiff.diffusion import NoiseSchedule, VariationalBound
from minidiff.diffusion.vlb import discretized_gaussian_log_likelihood, normal_kl
from minidiff.random import Generator
from tests.normal_images import images

C = 0.25  # standard deviation of Gaussian images, of which everything is known
SMALL = NoiseSchedule(40, "linear", 1e-4, 0.3)
BETA = np.linspace(1e-4, 0.3, 40)
BARS = np.cumprod([1.0, *1 - BETA])  # alpha_bar, of which the first is that of clean images
OF_X0 = np.sqrt(BARS[:-1]) * BETA / (1 - BARS[1:])  # what x_0 counts in the posterior's mean
BETA_TILDE = BETA * (1 - BARS[:-1]) / (1 - BARS[1:])  # its variance
LIMITS = np.array([[BETA_TILDE[1], *BETA_TILDE[1:]], BETA])  # of learned variances, which cannot be 0


@pytest.mark.parametrize(
    ("m1", "v1", "m2", "v2"), [(0.0, 1.0, 0.0, 1.0), (0.5, 0.3, -0.2, 2.0), (1.0, 4.0, 1.0, 0.5)]
)
def test_kl_of_normals_is_the_integral(backend: Backend, m1: float, v1: float, m2: float, v2: float) -> None:
    z = np.linspace(-40, 40, 400_001)

    def log_density(m: float, v: float) -> np.ndarray[Any, Any]:
        return -((z - m) ** 2) / (2 * v) - 0.5 * math.log(2 * math.pi * v)

    p = np.exp(log_density(m1, v1))
    expected = np.sum(p * (log_density(m1, v1) - log_density(m2, v2))) * (z[1] - z[0])
    arrays = [backend.from_numpy(np.asarray([x])) for x in (m1, math.log(v1), m2, math.log(v2))]
    assert backend.to_numpy(normal_kl(*arrays))[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.98, 0.01), (-1.3, 0.5), (0.2, 4.0)])
def test_probabilities_of_all_levels_add_up_to_one(backend: Backend, mean: float, std: float) -> None:
    x = backend.from_numpy(np.linspace(-1, 1, 256))
    log_p = discretized_gaussian_log_likelihood(
        x, ops.full_like(x, mean), ops.full_like(x, 2 * math.log(std))
    )
    p = np.exp(backend.to_numpy(log_p))
    assert p.sum() == pytest.approx(1, abs=256e-12)
    lowest = 0.5 + 0.5 * math.erf((1 / 255 - 1 - mean) / std * 0.5**0.5)  # all that lies below
    assert p[0] == pytest.approx(lowest, rel=1e-9, abs=2e-12)


def gaussian_images(shape: tuple[int, ...] = (8, 2, 24, 24)) -> np.ndarray[Any, Any]:
    """256 levels, close to normal."""
    return np.clip(np.round((C * images(0, shape, "float64") + 1) * 127.5), 0, 255) / 127.5 - 1


def gaussian_model(x: Any, t: Any) -> Any:
    """What a perfect network says of Gaussian images: E[x_0 | x_t], and the variance that steps back then have."""
    alpha, sigma = SMALL.alpha(t, x), SMALL.sigma(t, x)
    total = alpha**2 * C**2 + sigma**2
    x0 = (alpha * C**2 / total) * x
    backend = backend_of(t)
    steps = backend.to_numpy(t)
    of_x0, small, low, high = (
        backend.from_numpy(values[steps].reshape(-1, 1, 1, 1))
        for values in (OF_X0, BETA_TILDE, *np.log(LIMITS))
    )
    v = 2 * (ops.log(small + of_x0**2 * C**2 * sigma**2 / total) - low) / (high - low) - 1
    return ops.concat([x0, ops.broadcast_to(v, tuple(x.shape))], axis=1)


def test_the_bound_is_tight_for_gaussian_images(backend: Backend) -> None:
    """Reverse steps of Gaussian images are Gaussian: the bound is their entropy, in bits per dimension."""
    bound = VariationalBound(SMALL, prediction_type="sample").bound(
        gaussian_model, backend.from_numpy(gaussian_images()), Generator(0, backend), clip=False
    )
    entropy = math.log2(C * math.sqrt(2 * math.pi * math.e)) + math.log2(255 / 2)
    total = backend.to_numpy(bound.total)
    assert total.shape == (8,)
    assert total.mean() == pytest.approx(entropy, abs=0.03)
    parts = backend.to_numpy(bound.prior) + backend.to_numpy(bound.terms).sum(axis=1)
    np.testing.assert_allclose(total, parts, rtol=1e-12)


def test_each_term_of_the_bound_is_known_for_gaussian_images() -> None:
    """With the posterior's variance, L_t = of_x0^2 Var(x_0 | x_t) / (2 beta_tilde) nats in expectation."""
    x0 = gaussian_images((16, 2, 32, 32))
    bound = VariationalBound(SMALL, prediction_type="sample", variance_type="fixed_small").bound(
        lambda x, t: gaussian_model(x, t)[:, :2], x0, Generator(0), clip=False
    )
    uncertain = C**2 * (1 - BARS[1:]) / (BARS[1:] * C**2 + 1 - BARS[1:])
    expected = OF_X0[1:] ** 2 * uncertain[1:] / (2 * BETA_TILDE[1:]) / math.log(2)
    np.testing.assert_allclose(bound.terms.mean(axis=0)[1:], expected, rtol=0.05)


def test_the_prior_is_a_divergence_from_pure_noise(backend: Backend) -> None:
    """KL(N(alpha x_0, sigma^2) || N(0, 1)) of constant images, after three steps that leave much of them."""
    schedule, x0 = NoiseSchedule(3, "linear", 0.1, 0.3), np.full((2, 1, 4, 4), 0.5)
    a = (1 - 0.1) * (1 - 0.2) * (1 - 0.3)
    expected = 0.5 * (a * 0.25 + (1 - a) - 1 - math.log(1 - a)) / math.log(2)
    got = backend.to_numpy(VariationalBound(schedule).prior(backend.from_numpy(x0)))
    np.testing.assert_allclose(got, [expected] * 2, rtol=1e-9)


def test_the_predicted_image_is_clipped_on_request() -> None:
    bound = VariationalBound(SMALL, prediction_type="sample", variance_type="fixed_large")
    x0, t = np.ones((2, 1, 3, 3)), np.asarray([0, 20])
    x_t = SMALL.add_noise(x0, images(1, x0.shape, "float64"), t)
    clipped, exact, wild = (
        bound.terms(factor * x0, x0, x_t, t, clip=clip)
        for factor, clip in ((-3, True), (-1, False), (-3, False))
    )
    np.testing.assert_array_equal(clipped, exact)
    assert wild[1] > exact[1] + 0.3


def check_variances(bound: VariationalBound, v: list[float], variance: np.ndarray[Any, Any]) -> None:
    """At timesteps 0, 5 and 39: what a term costs follows from the variance alone if the mean is right."""
    x0, t = np.zeros((3, 1, 1, 1)), np.array([0, 5, 39])
    terms = bound.terms(np.concatenate([x0, *(x0 + share for share in v)], axis=1), x0, x0, t)
    ratio = LIMITS[0, t] / variance[t]
    level = discretized_gaussian_log_likelihood(np.zeros(1), 0.0, np.log(variance[:1]))
    expected = np.concatenate([-level, 0.5 * (ratio - 1 - np.log(ratio))[1:]]) / math.log(2)
    np.testing.assert_allclose(terms, expected, rtol=1e-9, atol=1e-12)


def test_the_range_of_learned_variances() -> None:
    """v = -1 is the posterior's variance, 1 is beta, and between them logarithms are mixed (equation 15)."""
    learned, (small, beta) = VariationalBound(SMALL, prediction_type="sample"), LIMITS
    for v, variance in ((-1.0, small), (0.0, np.sqrt(small * beta)), (1.0, beta)):
        check_variances(learned, [v], variance)


def test_fixed_variances() -> None:
    """The posterior's, or beta; at t = 0, where the posterior has none, that of the next."""
    large = np.concatenate([BETA_TILDE[1:2], BETA[1:]])
    for name, variance in (("fixed_small", LIMITS[0]), ("fixed_large", large)):
        check_variances(VariationalBound(SMALL, prediction_type="sample", variance_type=name), [], variance)


def test_the_hybrid_loss_is_the_simple_loss_and_a_thousandth_of_the_bound() -> None:
    hybrid, x0, t = (
        VariationalBound(SMALL, prediction_type="sample"),
        gaussian_images((6, 2, 4, 4)),
        np.arange(6) * 7,
    )
    got = hybrid.losses(gaussian_model, x0, t, Generator(3))
    noise = Generator(3).normal(x0.shape, dtype=np.float64)
    x_t = SMALL.add_noise(x0, noise, t)
    output = gaussian_model(x_t, t)
    simple = np.mean((output[:, :2] - x0) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(got, simple + 0.001 * 40 * hybrid.terms(output, x0, x_t, t), rtol=1e-9)


def test_only_the_variance_learns_from_the_bound_in_the_hybrid_loss(backend: Backend) -> None:
    x0 = backend.from_numpy(gaussian_images((6, 2, 4, 4)))
    w, u = (Parameter(backend.from_numpy(np.asarray([value]))) for value in (0.7, 0.2))

    def model(x: Any, t: Any) -> Any:
        return ops.concat([w * x, u + 0 * x], axis=1)

    def gradients(**options: Any) -> dict[str, float]:
        bound = VariationalBound(SMALL, prediction_type="sample", **options)
        step = value_and_grad(lambda: bound.loss(model, x0, Generator(2, backend)), {"w": w, "u": u})
        return {name: float(g[0]) for name, g in step()[1].items()}

    hybrid, simple = gradients(), gradients(vlb_weight=0.0)
    assert hybrid["w"] == pytest.approx(simple["w"], rel=1e-9)
    assert simple["u"] == 0
    alone = gradients(objective="vlb")
    assert hybrid["u"] == pytest.approx(0.001 * alone["u"], rel=1e-6)
    assert abs(alone["w"]) > 1e-3


def test_the_bound_is_differentiated_as_differences_say() -> None:
    x0, w = gaussian_images((6, 2, 4, 4)), Parameter(np.asarray([0.3]))
    bound = VariationalBound(SMALL, prediction_type="epsilon", objective="vlb")

    def loss() -> Any:
        t = np.asarray([0, 1, 2, 10, 20, 39])
        return ops.mean(bound.losses(lambda x, t: ops.concat([w * x, w * x], axis=1), x0, t, Generator(2)))

    _, grads = value_and_grad(loss, {"w": w})()
    around = []
    for value in (0.3 + 1e-6, 0.3 - 1e-6):
        w.data = np.asarray([value])
        around.append(float(loss()))
    assert float(grads["w"][0]) == pytest.approx((around[0] - around[1]) / 2e-6, rel=1e-5)


def test_what_the_bound_refuses() -> None:
    with pytest.raises(ValueError, match=r"variance_type must be one of .*'fixed_large'.*got 'learned'"):
        VariationalBound(variance_type="learned")
    with pytest.raises(ValueError, match="objective must be one of"):
        VariationalBound(objective="simple")
    with pytest.raises(ValueError, match="one timestep"):
        VariationalBound(NoiseSchedule(1))
    with pytest.raises(ValueError, match="3-channel images must return 6 channels, got 3"):
        VariationalBound().loss(lambda x, t: x, images(0), Generator(0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_bound_in_half_precision(dtype: str) -> None:
    """Half of the variances of the linear schedule, and their quotients, are outside the range of float16."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bound, t = VariationalBound(), np.array([0, 3, 500, 999])
    x0 = np.clip(images(0), -1, 1).astype(getattr(ml_dtypes, dtype, dtype))
    x_t = bound.schedule.add_noise(x0, images(1).astype(x0.dtype), t)
    output = np.concatenate([images(2), images(3) / 3], axis=1).astype(x0.dtype)
    got, expected = (
        bound.terms(*(a.astype(d) for a in (output, x0, x_t)), t) for d in (x0.dtype, np.float64)
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    np.testing.assert_allclose(bound.prior(x0), bound.prior(x0.astype(np.float64)), rtol=1e-2)


def test_the_bound_visits_every_timestep_in_half_precision() -> None:
    """Also those that bfloat16 does not have."""
    ml_dtypes, seen = pytest.importorskip("ml_dtypes"), []

    def model(x: Any, t: Any) -> Any:
        seen.append(int(t[0]))
        return ops.concat([x, x], axis=1)

    x0 = np.zeros((1, 1, 1, 1), ml_dtypes.bfloat16)
    VariationalBound(NoiseSchedule(260)).bound(model, x0, Generator(0))
    assert seen == list(range(260))
