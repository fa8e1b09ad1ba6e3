"""EDM's preconditioning and loss, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.backend import Backend
from minidiff.diffusion import EDM
from minidiff.random import Generator
from tests.normal_images import SHAPE, column, images


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


def test_bad_standard_deviation_of_images() -> None:
    with pytest.raises(ValueError, match="sigma_data must be above 0"):
        EDM(sigma_data=0.0)
