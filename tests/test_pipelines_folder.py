"""Pipelines in folders: the layout of diffusers, read and written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff import diffusion, value_and_grad
from minidiff.diffusion import DDIM, DDPM
from minidiff.models import UNet2DModel
from minidiff.pipelines import Pipeline, generate, load_pipeline, save_pipeline, training_objective
from minidiff.random import Generator
from minidiff.weights import CheckpointError
from tests.pipelines_reference import IMAGES, SAMPLERS, SMALL, STEPS, calm_pipeline, generators

WEIGHTS = "diffusion_pytorch_model.safetensors"


def small_unet(seed: int = 0, out_channels: int = 1, **options: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=out_channels, block_out_channels=(4, 8), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2, rng=Generator(seed), **options,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sampler = DDIM(beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False)
    save_pipeline(Pipeline(small_unet(), sampler), tmp_path / "pipeline")
    return tmp_path / "pipeline"


def test_what_is_saved_is_what_is_loaded(folder: Path) -> None:
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {
        "model_index.json", "unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json",
    }  # fmt: skip
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "DDIMPipeline"
    assert index["unet"] == ["diffusers", "UNet2DModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    loaded = load_pipeline(folder)
    assert isinstance(loaded.sampler, DDIM)
    assert loaded.sampler.prediction_type == "v_prediction"
    assert loaded.image_shape == (1, 8, 8)
    mine = Pipeline(
        small_unet(), DDIM(beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False)
    )
    images = [generate(p, 2, steps=3, generator=Generator(4)) for p in (loaded, mine)]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_whole_loop_ends_where_that_of_diffusers_did(name: str, tmp_path: Path) -> None:
    """Images that `tests.interop.diffusers_pipelines` wrote."""
    save_pipeline(calm_pipeline(SAMPLERS[name], SMALL), tmp_path / "p")
    mine = generate(load_pipeline(tmp_path / "p"), 2, steps=STEPS, generator=generators())
    with np.load(IMAGES) as expected:
        np.testing.assert_allclose(mine, expected[name], atol=2e-5)


@pytest.mark.parametrize("other", ["ddpm", "kdpm2-ancestral"])  # the class of the latter is one of kdpm2's
@pytest.mark.parametrize("name", diffusion.SAMPLERS)
def test_every_sampler_takes_over_the_configuration_of_another(name: str, other: str) -> None:
    options = {"beta_schedule": "cosine", "prediction_type": "v_prediction", "num_train_timesteps": 500}
    first = Pipeline(small_unet(), diffusion.SAMPLERS[other](**options))
    pipeline = first.with_sampler(name)
    assert type(pipeline.sampler) is diffusion.SAMPLERS[name]
    assert pipeline.sampler.schedule.beta_schedule in ("cosine", "squaredcos_cap_v2")
    assert (pipeline.sampler.prediction_type, pipeline.sampler.num_train_timesteps) == ("v_prediction", 500)
    images = generate(pipeline, 1, steps=4, generator=Generator(0))
    assert np.isfinite(images).all()


def test_a_sampler_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'magic' does not fit a network made for DDPM.*'unipc'"):
        Pipeline(small_unet(), DDPM()).with_sampler("magic")
    with pytest.raises(
        ValueError, match=r"'ddim' does not fit a network made for EDMEuler\(\); .*'edm-heun'"
    ):
        Pipeline(small_unet(), diffusion.EDMEuler()).with_sampler("ddim")
    own = type("Own", (diffusion.DDIM,), {})()
    with pytest.raises(ValueError, match=r"'ddim' does not fit .* are \[\]"):
        Pipeline(small_unet(), own).with_sampler("ddim")


def test_samplers_of_edm_and_of_flow_matching_take_over_from_each_other() -> None:
    edm = Pipeline(small_unet(), diffusion.EDMEuler(sigma_max=10.0, sigma_data=0.3))
    for name in ("edm-euler", "edm-heun", "edm-dpm-solver"):
        sampler = edm.with_sampler(name, rho=5.0).sampler
        assert type(sampler) is diffusion.samplers_like(edm.sampler)[name]
        assert (sampler.sigma_max, sampler.sigma_data, sampler.rho) == (10.0, 0.3, 5.0)  # type: ignore[attr-defined]
        assert edm.with_sampler(name).with_sampler("edm-euler").sampler.config == edm.sampler.config
    flow = Pipeline(small_unet(), diffusion.FlowMatchHeun(shift=3.0))
    for name, last in (("flow-euler", True), ("flow-heun", False)):
        sampled = flow.with_sampler(name)
        assert isinstance(sampled.sampler, diffusion.FlowMatchEuler) is last
        assert sampled.sampler.shift == 3.0  # type: ignore[attr-defined]
        assert np.isfinite(generate(sampled, 1, steps=3, generator=Generator(0))).all()


def test_no_name_stands_for_two_samplers() -> None:
    names = [name for family in diffusion.SAMPLER_FAMILIES for name in family]
    assert len(set(names)) == len(names) == 20


FLOW_BY_MULTISTEP = diffusion.DPMSolverMultistep(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (DDPM(prediction_type="v_prediction"), diffusion.GaussianDiffusion),
        (diffusion.Euler(), diffusion.GaussianDiffusion),
        (DDPM(variance_type="learned_range"), diffusion.VariationalBound),
        (diffusion.EDMHeun(sigma_data=0.3), diffusion.EDM),
        (diffusion.FlowMatchEuler(shift=2.0), diffusion.FlowMatching),
        (FLOW_BY_MULTISTEP, diffusion.FlowMatching),
    ],
)
def test_a_network_is_trained_for_its_sampler(sampler: Any, expected: type) -> None:
    objective = training_objective(sampler)
    assert type(objective) is expected
    for name in ("prediction_type", "shift", "sigma_data"):
        if hasattr(sampler, name) and hasattr(objective, name):
            assert getattr(sampler, name) == getattr(objective, name)
    if sampler is FLOW_BY_MULTISTEP:
        assert objective.shift == 3.0
    json.dumps(objective.describe())


@pytest.mark.parametrize(
    "sampler", [diffusion.EDMEuler(), diffusion.EDMHeun(), diffusion.FlowMatchEuler(), FLOW_BY_MULTISTEP]
)
def test_what_the_objective_asks_for_is_what_the_sampler_expects(sampler: Any) -> None:
    """A network that gives the target of one known image makes the loss vanish, and is drawn to that image."""
    image, objective = 0.5 * Generator(9).normal((1, 1, 8, 8)), training_objective(sampler)

    def model(x: Any, t: Any, **_: Any) -> Any:
        t = np.reshape(t, (-1, 1, 1, 1))
        if isinstance(objective, diffusion.EDM):
            sigma = np.exp(4 * t)
            c_skip, c_out, c_in = objective.scalings(sigma)
            return ((image - c_skip * x / c_in) / c_out).astype(np.float32)
        return ((x - image) / (t / 1000)).astype(np.float32)

    loss = objective.loss(model, np.repeat(image, 64, axis=0), Generator(0))
    assert float(loss) < 1e-5
    drawn = generate(Pipeline(model, sampler, (1, 8, 8)), 2, steps=12, generator=Generator(1))
    np.testing.assert_allclose(drawn, np.repeat(np.clip(image, -1, 1), 2, axis=0), atol=0.01)


def test_a_network_that_learns_its_variance() -> None:
    """It has twice the channels of its images; it is trained, guided and drawn."""
    unet = small_unet(out_channels=2, num_class_embeds=3)
    pipeline = Pipeline(unet, DDPM(variance_type="learned_range"))
    assert pipeline.image_shape == (1, 8, 8)
    objective, x0, labels = (
        training_objective(pipeline.sampler),
        Generator(1).normal((4, 1, 8, 8)),
        np.array([0, 1, 1, 0]),
    )
    step = value_and_grad(lambda: objective.loss(unet, x0, Generator(0), labels=labels), unet)
    loss, grads = step()
    assert np.isfinite(float(loss))
    assert np.abs(grads["conv_out.weight"][1]).max() > 0  # of the channel that says the variance
    images = generate(pipeline, 2, labels=[0, 1], guidance=2.0, steps=3, generator=Generator(0))
    assert images.shape == (2, 1, 8, 8)


def test_no_objective_is_an_error() -> None:
    told_noise_levels = diffusion.Euler(prediction_type="v_prediction", timestep_type="continuous")
    for sampler, gamma in (
        (DDPM(variance_type="learned"), None),
        (diffusion.EDMEuler(), 5.0),
        (FLOW_BY_MULTISTEP, 5.0),
        (diffusion.FlowMatchEuler(invert_sigmas=True), None),
        (told_noise_levels, None),
    ):
        with pytest.raises(ValueError, match="no training objective for"):
            training_objective(sampler, min_snr_gamma=gamma)


def test_half_precision(folder: Path) -> None:
    loaded = load_pipeline(folder, dtype="float16")
    assert {str(w.dtype) for w in loaded.weights} == {"float16"}
    exact, half = (generate(p, 2, steps=3, generator=Generator(4)) for p in (load_pipeline(folder), loaded))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, exact, atol=0.02)
    assert np.abs(half - exact).max() > 0


def test_a_pipeline_holds_no_weights_but_its_networks() -> None:
    """Training puts other arrays into the network, and `to` moves them."""
    pipeline = Pipeline(small_unet(), DDIM())
    generate(pipeline, 1, steps=1, generator=Generator(0))
    pipeline.model.conv_in.weight.data = other = np.zeros_like(pipeline.model.conv_in.weight.data)
    assert any(array is other for array in pipeline.weights)


def test_the_parts_of_old_folders_lie_beside_the_index(folder: Path, tmp_path: Path) -> None:
    """As in google/ddpm-cifar10-32."""
    old = tmp_path / "old"
    old.mkdir()
    for part in (
        "model_index.json",
        "unet/config.json",
        f"unet/{WEIGHTS}",
        "scheduler/scheduler_config.json",
    ):
        shutil.copy(folder / part, old / Path(part).name)
    images = [generate(load_pipeline(p), 1, steps=2, generator=Generator(4)) for p in (folder, old)]
    np.testing.assert_array_equal(*images)
    save_pipeline(Pipeline(small_unet(), DDPM()), old)
    assert isinstance(load_pipeline(old).sampler, DDPM)


def test_saving_again_replaces_the_parts_and_keeps_the_rest(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    (folder / "unet" / "stale.txt").write_text("of the old network")
    save_pipeline(Pipeline(small_unet(1), DDPM()), folder)
    assert (folder / "README.md").read_text() == "mine"
    assert not (folder / "unet" / "stale.txt").exists()
    again = load_pipeline(folder)
    assert isinstance(again.sampler, DDPM)
    np.testing.assert_array_equal(again.model.conv_in.weight.data, small_unet(1).conv_in.weight.data)
    assert [p.name for p in folder.parent.iterdir()] == ["pipeline"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(FileExistsError, match=r"holds files, but no model_index\.json"):
        save_pipeline(Pipeline(small_unet(), DDPM()), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(TypeError, match="expected a UNet2DModel, got function"):
        save_pipeline(Pipeline(lambda x, t: x, DDPM(), (1, 8, 8)), tmp_path / "new")


def test_a_failed_write_leaves_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    before = (folder / "unet" / WEIGHTS).read_bytes()
    monkeypatch.setattr(DDPM, "save_config", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pipeline(Pipeline(small_unet(1), DDPM()), folder)
    assert (folder / "unet" / WEIGHTS).read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["pipeline"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vae": ["diffusers", "VQModel"]},
            r"expected a pipeline of 'unet' and 'scheduler'.*'vae': 'VQModel'",
        ),
        ({"scheduler": ["diffusers", "KarrasVeScheduler"], "_class_name": "KarrasVePipeline"}, "KarrasVeSch"),
        ({"scheduler": None}, "expected a pipeline of 'unet' and 'scheduler'"),
        ({"unet": ["diffusers", "UNet3DModel"]}, "no network 'UNet3DModel' here"),
    ],
)
def test_other_pipelines_are_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder)


def test_the_index_decides_what_samples(folder: Path) -> None:
    """As in diffusers: the class of the scheduler, but for DDIMPipeline, which makes a DDIM of any."""
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for change, expected in (
        ({"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "PNDMScheduler"]}, "PNDMScheduler"),
        ({"_class_name": "DDIMPipeline", "scheduler": ["diffusers", "DDPMScheduler"]}, "DDIMScheduler"),
        ({"_class_name": ["mine", "Mine"], "scheduler": ["diffusers", "DDPMScheduler"]}, "DDPMScheduler"),
    ):
        path.write_text(json.dumps(index | change))
        sampler = load_pipeline(folder).sampler
        assert (sampler.diffusers_name, sampler.prediction_type) == (expected, "v_prediction")


def test_files_edited_on_windows(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_pipeline(folder).image_shape == (1, 8, 8)


def test_a_variance_that_the_sampler_does_not_look_at_is_no_image() -> None:
    """Of improved diffusion: twice the channels, whatever they are drawn with."""
    for sampler in (DDPM(variance_type="learned_range"), DDIM()):
        pipeline = Pipeline(small_unet(out_channels=2), sampler)
        assert generate(pipeline, 1, steps=2, generator=Generator(0)).shape == (1, 1, 8, 8)


def test_damaged_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing/model_index\.json"):
        load_pipeline(tmp_path / "nothing")
    config = folder / "unet" / "config.json"
    sized = config.read_text()
    for size in ("null", "8.0", "[8]", "[8, null]", "0"):
        config.write_text(sized.replace('"sample_size": 8', f'"sample_size": {size}'))
        with pytest.raises(CheckpointError, match=r"unet/config\.json: .* how large images are"):
            load_pipeline(folder)
    config.write_text(sized.replace('"dropout": 0.0', '"dropout": null'))
    with pytest.raises(CheckpointError, match="dropout must be a number, got None"):
        load_pipeline(folder)
    config.write_text(sized)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    content = json.loads(scheduler.read_text())
    for bad, message in (
        ({"beta_end": 7.0}, r"beta_end=7\.0"),
        ({"num_train_timesteps": "many"}, "many"),
    ):
        scheduler.write_text(json.dumps(content | bad))
        with pytest.raises(CheckpointError, match=message):
            load_pipeline(folder)
    scheduler.unlink()
    with pytest.raises(
        CheckpointError, match=r"neither scheduler_config\.json nor scheduler/scheduler_config"
    ):
        load_pipeline(folder)


def test_a_null_part_is_no_part(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"safety_checker": [None, None], "_x": 1}))
    assert load_pipeline(folder).image_shape == (1, 8, 8)
