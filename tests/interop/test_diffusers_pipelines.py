"""Whole loops beside the pipelines of diffusers: the same folder, weights and noise, the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from benchmarks import pretrained  # noqa: E402
from minidiff.diffusion import DDIM, DDPM, PNDM, Euler, Heun, Sampler  # noqa: E402
from minidiff.pipelines import generate, load_pipeline, save_pipeline  # noqa: E402
from tests.interop.diffusers_loop import quietly  # noqa: E402
from tests.interop.diffusers_pipelines import their_images  # noqa: E402
from tests.pipelines_reference import CIFAR10, SAMPLERS, SMALL, STEPS, calm_pipeline, generators  # noqa: E402


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_saved_folder_draws_the_same_images_in_diffusers(name: str, tmp_path: Path) -> None:
    sampler = SAMPLERS[name]
    save_pipeline(calm_pipeline(sampler, SMALL), tmp_path / "p")
    mine = generate(load_pipeline(tmp_path / "p"), 2, steps=STEPS, generator=generators())
    options = {"eta": sampler.eta} if isinstance(sampler, DDIM) else {}
    expected = their_images(tmp_path / "p", count=2, steps=STEPS, **options)
    np.testing.assert_allclose(mine, expected, atol=2e-5)
    assert np.abs(expected).mean() > 0.1


@pytest.mark.parametrize("sampler", [PNDM(), Euler(), Heun()], ids=lambda s: type(s).__name__)
def test_other_schedulers_are_read_back(sampler: Sampler, tmp_path: Path) -> None:
    save_pipeline(calm_pipeline(sampler, SMALL), tmp_path / "p")
    with quietly():
        pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "p")
    assert type(pipeline.scheduler).__name__ == sampler.diffusers_name
    assert type(load_pipeline(tmp_path / "p").sampler) is type(sampler)


def test_a_folder_that_diffusers_wrote(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**SMALL)
    with torch.no_grad():
        unet.conv_out.weight /= 100
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing="linspace")
    with quietly():
        diffusers.DDIMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "p")
    mine = generate(load_pipeline(tmp_path / "p"), 2, steps=STEPS, generator=generators())
    np.testing.assert_allclose(mine, their_images(tmp_path / "p", count=2, steps=STEPS), atol=2e-5)


def test_the_index_decides_what_samples(tmp_path: Path) -> None:
    """A DDIMPipeline makes a DDIM of the scheduler that its folder has, of which it takes over what was chosen."""
    save_pipeline(
        calm_pipeline(DDPM(clip_sample_range=0.9, beta_schedule="scaled_linear"), SMALL), tmp_path / "p"
    )
    index = tmp_path / "p" / "model_index.json"
    index.write_text(index.read_text().replace("DDPMPipeline", "DDIMPipeline"))
    mine = generate(load_pipeline(tmp_path / "p"), 2, steps=STEPS, generator=generators())
    np.testing.assert_allclose(mine, their_images(tmp_path / "p", count=2, steps=STEPS), atol=2e-5)


def test_fifty_steps_of_ddim_with_the_network_of_ddpm_cifar10(tmp_path: Path) -> None:
    """The whole loop with 35.7 million parameters ends within 1e-3 of diffusers' image."""
    pipeline = calm_pipeline(DDIM(), CIFAR10)
    assert pipeline.model.num_parameters() == 35_746_307
    save_pipeline(pipeline, tmp_path / "p")
    mine = generate(load_pipeline(tmp_path / "p"), 1, steps=50, generator=generators(1))
    expected = their_images(tmp_path / "p", count=1, steps=50)
    np.testing.assert_allclose(mine, expected, atol=1e-3)
    assert np.abs(expected).mean() > 0.1


def test_repaint_jumps_as_in_diffusers() -> None:
    from minidiff.pipelines.editing import _jumps

    scheduler = diffusers.RePaintScheduler()
    for steps, length, samples in ((250, 10, 10), (100, 20, 3)):
        scheduler.set_timesteps(steps, jump_length=length, jump_n_sample=samples)
        places, place = [0], 0
        for goal in _jumps(steps, length, samples):
            step = 1 if goal > place else -1
            places += range(place + step, goal + step, step)
            place = goal
        stride = 1000 // steps
        assert scheduler.timesteps.tolist() == [(steps - 1 - p) * stride for p in places if p < steps]


def test_the_parties_of_the_benchmark_draw_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**pretrained.CONFIG, "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
    monkeypatch.setattr(pretrained, "CONFIG", small)
    pretrained.write_folder(str(tmp_path / "p"))
    noise = np.ascontiguousarray(generators(1)[0].normal((2, 3, 32, 32)))
    mine, expected = (make(str(tmp_path / "p"), 1)(noise, 5) for make in pretrained.PARTIES.values())
    np.testing.assert_allclose(mine, expected, atol=2e-5)
    assert {"torch", "numpy", "huggingface-hub"} <= pretrained.needs("diffusers") | pretrained.needs("torch")
    assert not {"torch", "pytest"} & pretrained.needs("minidiff")
