"""The loop from noise to images."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.diffusion import (
    DDIM,
    PREDICTION_TYPES,
    SAMPLERS,
    Euler,
    GaussianDiffusion,
    NoiseSchedule,
    classifier_free_guidance,
    make_sampler,
    sample,
)
from minidiff.random import Generator
from tests.diffusers_dummy import SHAPE, dummy_model, ramp
from tests.gaussian_denoiser import STD, GaussianDenoiser

# --- the loop


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "v_prediction") for name in SAMPLERS), *(("ddim", kind) for kind in PREDICTION_TYPES)],
)
def test_every_library_draws_the_same_image(backend: Backend, name: str, kind: str) -> None:
    """Bit for bit where the steps are the generic rules; a CUDA kernel multiplies and adds in one rounding."""

    def draw(where: Any) -> Any:
        schedule = NoiseSchedule(beta_schedule="cosine")
        sampler = make_sampler(name, schedule, prediction_type=kind)
        return sample(lambda x, _: 0.9 * x, SHAPE, sampler, steps=13, rng=Generator(9, where))

    x = draw(backend)
    assert isinstance(x, backend.array_type)
    host = backend.to_numpy(x)
    assert host.dtype == np.float32
    if "linear_combination" in backend.kernels:
        np.testing.assert_allclose(host, draw("cpu"), rtol=1e-3, atol=1e-3)
    else:
        np.testing.assert_array_equal(host, draw("cpu"))


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


def test_the_network_sees_images_of_the_size_it_was_trained_on() -> None:
    """Euler's images have the standard deviation of the noise level, the network's 1; timesteps are no integers."""
    seen = []
    sampler = Euler(beta_schedule="scaled_linear")
    sample(lambda x, t: seen.append((x, t)) or 0 * x, (64, 1, 8, 8), sampler, steps=4, rng=Generator(0))
    first, t = seen[0]
    assert first.std() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(
        first,
        Generator(0).normal((64, 1, 8, 8)) * sampler.init_noise_sigma / sampler.points[0].scale,
        rtol=1e-5,
    )
    assert t.dtype == np.float32
    assert [float(t[0]) for _, t in seen] == sampler.timesteps == [999.0, 666.0, 333.0, 0.0]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reads what a step computes."""
    torch = pytest.importorskip("torch")
    sampler, x = make_sampler(name, NoiseSchedule()), torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    sampler.set_timesteps(6)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("read a device array")

    for reader in ("item", "tolist", "numpy", "__int__", "__float__", "__bool__", "__index__", "__array__"):
        monkeypatch.setattr(torch.Tensor, reader, forbidden)
    for t in sampler.timesteps:
        y = torch.sin(3 * sampler.scale_model_input(x, t))
        x = sampler.step(y, t, x, noise=torch.ones(x.shape)).prev_sample
    monkeypatch.undo()
    assert torch.isfinite(x).all()


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
    x = sample(lambda x, _: x, SHAPE, sampler, steps=5, rng=Generator(0), initial=initial)
    assert x.dtype == np.float16
    assert np.isfinite(x).all()


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"lcm"}))  # which is for networks of its own
def test_every_sampler_draws_from_a_cosine_schedule_in_few_steps(name: str) -> None:
    """Gaussian images from a perfect network: how far they spread is known. At the last timestep sigma is 20,000."""
    diffusion = GaussianDiffusion(NoiseSchedule(beta_schedule="cosine"), prediction_type="epsilon")
    denoise = GaussianDenoiser(diffusion.schedule)
    x = diffusion.sample(denoise, (16, 1, 8, 8), sampler=name, steps=15, rng=Generator(0))
    assert x.std() == pytest.approx(STD, rel=0.25)
    assert abs(x.mean()) < 0.05
