"""EDM, flow matching and the variational bound, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.autodiff import Parameter, value_and_grad
from minidiff.backend import Backend
from minidiff.diffusion import EDM, FlowMatching, GaussianDiffusion, NoiseSchedule, VariationalBound
from minidiff.diffusion.flow import logit_normal_times, shift_times, uniform_times
from minidiff.diffusion.vlb import discretized_gaussian_log_likelihood, normal_kl
from minidiff.models import UNet2DModel
from minidiff.random import Generator

SHAPE = (4, 3, 5, 6)


def images(seed: int, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def column(x: Any) -> Any:
    return np.reshape(x, (-1, 1, 1, 1))


# --- EDM


def test_preconditioning_keeps_unit_variance() -> None:
    """Input and target of the network have variance 1 at every noise level, and c_skip makes c_out smallest."""
    edm, rng = EDM(sigma_data=0.7), np.random.default_rng(0)
    y, n = 0.7 * rng.normal(size=400_000), rng.normal(size=400_000)
    for sigma in (0.002, 0.1, 0.7, 3.0, 80.0):
        c_skip, c_out, c_in = edm.scalings(sigma)
        x = y + sigma * n
        assert np.std(c_in * x) == pytest.approx(1, abs=0.01)
        assert np.std((y - c_skip * x) / c_out) == pytest.approx(1, abs=0.01)
        residual = [np.var(y - c * x) for c in (c_skip - 0.05, c_skip, c_skip + 0.05)]
        assert residual[1] < residual[0]
        assert residual[1] < residual[2]
        assert edm.weight(sigma) == pytest.approx(1 / c_out**2, rel=1e-12)


def test_edm_noise_levels_are_log_normal(backend: Backend) -> None:
    sigma = backend.to_numpy(EDM(mean=-0.5, std=0.8).sample_sigmas(Generator(0, backend), 20_000))
    assert np.log(sigma).mean() == pytest.approx(-0.5, abs=4 * 0.8 / math.sqrt(20_000))
    assert np.log(sigma).std() == pytest.approx(0.8, rel=0.02)


def test_edm_denoises_gaussians_best_with_a_network_of_zeros(backend: Backend) -> None:
    """Of images N(0, sigma_data^2), E[x_0 | x] = c_skip x, so that F has nothing to say: its target has mean 0."""
    edm, x, sigma = EDM(), backend.from_numpy(images(0)), backend.from_numpy(np.float32([0.1, 1, 2, 9]))
    got = backend.to_numpy(edm.denoise(lambda x, t: ops.zeros_like(x), x, sigma))
    expected = 0.25 / (0.25 + np.array([0.1, 1, 2, 9]) ** 2)
    np.testing.assert_allclose(got, column(expected) * images(0), rtol=1e-6)


def test_edm_loss_is_the_weighted_error_of_the_denoised_image(backend: Backend) -> None:
    """Equation 8, from the same draws, in float64."""
    edm = EDM(sigma_data=0.6)
    loss = edm.loss(lambda x, t: 0.3 * x, backend.from_numpy(images(0)), Generator(5, backend))
    rng, x0 = Generator(5), images(0).astype(np.float64)
    sigma = np.exp(-1.2 + 1.2 * rng.normal((4,)).astype(np.float64))
    x = x0 + column(sigma) * rng.normal(SHAPE)
    denoised = edm.denoise(lambda x, t: 0.3 * x, x, sigma)
    assert float(loss) == pytest.approx(np.mean(column(edm.weight(sigma)) * (denoised - x0) ** 2), rel=1e-4)


def test_edm_gives_the_network_a_quarter_of_ln_sigma(backend: Backend) -> None:
    seen: list[Any] = []

    def model(x: Any, t: Any) -> Any:
        seen.append(backend.to_numpy(t))
        return x

    sigma = np.float32([0.5, 1, 2, 4])
    EDM().denoise(model, backend.from_numpy(images(0)), backend.from_numpy(sigma))
    np.testing.assert_allclose(seen[0], np.log(sigma) / 4, rtol=1e-6)


# --- flow matching


def test_times(backend: Backend) -> None:
    n, rng = 20_000, Generator(1, backend)
    uniform = backend.to_numpy(uniform_times(rng, n))
    assert abs(uniform.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    t = backend.to_numpy(logit_normal_times(rng, n, mean=0.5, std=0.7)).astype(np.float64)
    logits = np.log(t / (1 - t))
    assert logits.mean() == pytest.approx(0.5, abs=4 * 0.7 / math.sqrt(n))
    assert logits.std() == pytest.approx(0.7, rel=0.02)


def test_shift_keeps_the_signal_that_is_left() -> None:
    """Equation 23 follows from t / (1 - t) growing by the shift; the ends stay."""
    t = np.linspace(0.01, 0.99, 50)
    shifted = shift_times(t, 3.0)
    np.testing.assert_allclose(shifted / (1 - shifted), 3 * t / (1 - t), rtol=1e-12)
    assert [shift_times(x, 3.0) for x in (0.0, 1.0)] == [0.0, 1.0]


def test_flow_loss_is_the_error_of_the_velocity(backend: Backend) -> None:
    flow, seen = FlowMatching(shift=2.0, times="uniform"), []

    def model(x: Any, t: Any) -> Any:
        seen.append((backend.to_numpy(x), backend.to_numpy(t)))
        return 0.5 * x

    loss = flow.loss(model, backend.from_numpy(images(0)), Generator(5, backend))
    rng, x0 = Generator(5), images(0).astype(np.float64)
    t = shift_times(rng.uniform((4,)).astype(np.float64), 2.0)
    noise = rng.normal(SHAPE)
    x = (1 - column(t)) * x0 + column(t) * noise
    np.testing.assert_allclose(seen[0][0], x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen[0][1], 1000 * t, rtol=1e-6)
    assert float(loss) == pytest.approx(np.mean((0.5 * x - (noise - x0)) ** 2), rel=1e-5)


def test_the_velocity_leads_from_noise_to_the_image(backend: Backend) -> None:
    flow, x0, noise = FlowMatching(), backend.from_numpy(images(0)), backend.from_numpy(images(1))
    t = backend.from_numpy(np.float32([0.1, 0.4, 0.9, 1.0]))
    x = backend.to_numpy(flow.add_noise(x0, noise, t))
    np.testing.assert_allclose(
        x - column([0.1, 0.4, 0.9, 1.0]) * (images(1) - images(0)), images(0), atol=1e-6
    )


# --- the variational bound


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


C = 0.25  # standard deviation of Gaussian images, of which everything is known
SMALL = NoiseSchedule(40, "linear", 1e-4, 0.3)


def gaussian_images(shape: tuple[int, ...] = (8, 2, 24, 24)) -> np.ndarray[Any, Any]:
    """256 levels, close to normal."""
    return np.clip(np.round((C * images(0, shape, "float64") + 1) * 127.5), 0, 255) / 127.5 - 1


def gaussian_model(x: Any, t: Any) -> Any:
    """What a perfect network says of Gaussian images: E[x_0 | x_t], and the variance that steps back then have."""
    alpha, sigma = SMALL.alpha(t, x), SMALL.sigma(t, x)
    total = alpha**2 * C**2 + sigma**2
    x0 = (alpha * C**2 / total) * x
    of_x0 = SMALL._coefficients["posterior_x0"](t, x)
    small = SMALL.posterior(x, x, t)[1]
    low, high = (VariationalBound(SMALL)._limits[name](t, x) for name in ("fixed_small", "beta"))
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
    t = np.arange(1, 40)
    alpha, sigma = SMALL.alpha(t), SMALL.sigma(t)
    uncertain = C**2 * sigma**2 / (alpha**2 * C**2 + sigma**2)
    of_x0, small = (SMALL._coefficients[f"posterior_{part}"](t) for part in ("x0", "var"))
    expected = of_x0**2 * uncertain / (2 * small) / math.log(2)
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


def test_the_range_of_learned_variances() -> None:
    """v = -1 is the posterior's variance, 1 is beta, and between them logarithms are mixed (equation 15)."""
    learned, x = VariationalBound(SMALL), np.zeros((3, 1, 1, 1))
    t, betas = np.array([0, 5, 39]), SMALL.betas
    small = np.array([SMALL.posterior(x[:1], x[:1], max(int(s), 1))[1] for s in t])
    for v, expected in ((-1.0, small), (1.0, betas[t]), (0.0, np.sqrt(small * betas[t]))):
        got = np.exp(learned._log_variance(ops.full_like(x, v), x, t))
        np.testing.assert_allclose(got.ravel(), expected, rtol=1e-9)


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


# --- halves


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_edm_asks_for_in_half_precision(dtype: str) -> None:
    """At little noise, too, where x_0 - c_skip x is a difference of nearly equal images: within a few roundings."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x0, edm = images(0).astype(getattr(ml_dtypes, dtype, dtype)), EDM(mean=-5.0, std=0.5)
    rounding = {"float16": 2e-3, "bfloat16": 1.6e-2}[dtype]
    loss, exact = (
        float(edm.loss(lambda x, t: ops.zeros_like(x), x, Generator(0))) for x in (x0, x0.astype(np.float64))
    )
    assert loss == pytest.approx(exact, rel=rounding)


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
    ml_dtypes, seen = pytest.importorskip("ml_dtypes"), []

    def model(x: Any, t: Any) -> Any:
        seen.append(int(t[0]))
        return ops.concat([x, x], axis=1)

    x0 = np.zeros((1, 1, 1, 1), ml_dtypes.bfloat16)
    VariationalBound(NoiseSchedule(400)).bound(model, x0, Generator(0))
    assert seen == list(range(400))


# --- dropout


class Dropping:
    """A network with dropout, which remembers the generators that it was given."""

    def __init__(self, probability: float, channels: int = 1) -> None:
        self.config, self.channels = {"dropout": probability}, channels
        self.seen: list[Any] = []

    def __call__(self, x: Any, t: Any, labels: Any = None, *, rng: Any = None) -> Any:
        self.seen.append(rng)
        return ops.concat([x] * self.channels, axis=1)


@pytest.mark.parametrize(
    "objective", [GaussianDiffusion(), EDM(), FlowMatching(), VariationalBound()], ids=repr
)
@pytest.mark.parametrize("labels", [None, np.arange(4)])
def test_dropout_is_turned_on_in_training(objective: Any, labels: Any) -> None:
    channels = 2 if isinstance(objective, VariationalBound) else 1
    x0, rng = np.clip(images(0), -1, 1), Generator(0)
    dropping, keeping = Dropping(0.5, channels), Dropping(0.0, channels)
    for model in (dropping, keeping):
        objective.loss(model, x0, rng, labels=labels)
    assert dropping.seen == [rng]
    assert keeping.seen == [None]
    keeping.config = object()  # type: ignore[assignment]
    objective.loss(keeping, x0, rng, labels=labels)
    assert keeping.seen == [None] * 2  # what a network of others calls its configuration says nothing
    if channels == 2:
        VariationalBound(NoiseSchedule(3)).bound(dropping, x0, rng)
        assert dropping.seen[1:] == [None] * 3  # what a network says is asked without


def test_dropout_of_a_unet_in_training_and_not_in_sampling() -> None:
    small: dict[str, Any] = {
        "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [8], "layers_per_block": 1,
        "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "norm_num_groups": 4,
    }  # fmt: skip
    with_it, without = (UNet2DModel(**small, dropout=p, rng=Generator(1)) for p in (0.5, 0.0))
    x0, process = images(0, (4, 3, 8, 8)), GaussianDiffusion()
    losses = [float(process.loss(model, x0, Generator(2))) for model in (with_it, with_it, without)]
    assert losses[0] == losses[1] != losses[2]
    drawn = [process.sample(m, (1, 3, 8, 8), steps=2, rng=Generator(3)) for m in (with_it, without)]
    np.testing.assert_array_equal(*drawn)


# --- labels


@pytest.mark.parametrize("objective", [EDM, FlowMatching, VariationalBound])
def test_labels_reach_the_model_and_some_are_hidden(objective: Any) -> None:
    seen: list[Any] = []

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        seen.append(labels)
        return ops.concat([x, x], axis=1) if objective is VariationalBound else x

    labels, x0 = np.arange(400) % 10, np.clip(images(0, (400, 1, 2, 2)), -1, 1)
    objective().loss(model, x0, Generator(0), labels=labels)
    np.testing.assert_array_equal(seen.pop(), labels)
    objective(null_probability=0.2).loss(model, x0, Generator(0), labels=labels, null_label=10)
    assert 40 < (seen.pop() == 10).sum() < 120
    with pytest.raises(ValueError, match=r"null_probability=0\.2 needs labels and a null_label"):
        objective(null_probability=0.2).loss(model, x0, Generator(0), labels=labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDM(sigma_data=0.0), "sigma_data must be above 0"),
        (
            lambda: FlowMatching(times="cosine"),
            r"times must be one of \['uniform', 'logit_normal'\], got 'cosine'",
        ),
        (lambda: FlowMatching(shift=0.0), "shift must be above 0"),
    ],
)
def test_bad_numbers(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
