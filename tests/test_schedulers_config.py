"""`scheduler_config.json`: read, written, and what is said about options that nobody knows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from minidiff.diffusion import (
    DDIM,
    DDPM,
    KDPM2,
    LCM,
    LMS,
    PNDM,
    DDIMInverse,
    DPMSolverMultistep,
    DPMSolverSinglestep,
    EDMDPMSolverMultistep,
    EDMEuler,
    EDMHeun,
    Euler,
    EulerAncestral,
    FlowMatchHeun,
    Heun,
    KDPM2Ancestral,
    Sampler,
)

NAMES: dict[str, type[Sampler]] = {
    "DDPMScheduler": DDPM,
    "DDIMScheduler": DDIM,
    "DDIMInverseScheduler": DDIMInverse,
    "PNDMScheduler": PNDM,
    "EulerDiscreteScheduler": Euler,
    "EulerAncestralDiscreteScheduler": EulerAncestral,
    "HeunDiscreteScheduler": Heun,
    "KDPM2DiscreteScheduler": KDPM2,
    "KDPM2AncestralDiscreteScheduler": KDPM2Ancestral,
    "LMSDiscreteScheduler": LMS,
    "LCMScheduler": LCM,
    "EDMEulerScheduler": EDMEuler,
}
STABLE_DIFFUSION = {  # scheduler/scheduler_config.json of a published pipeline
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scheduler_config.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_class_is_the_one_that_is_named(name: str) -> None:
    sampler = Sampler.from_config({"_class_name": name, "num_train_timesteps": 300})
    assert type(sampler) is NAMES[name]
    assert sampler.num_train_timesteps == 300
    assert sampler.config["_class_name"] == name


def test_a_published_configuration(tmp_path: Path) -> None:
    """As a file, its folder, the folder above, or its content; options of other classes are no news."""
    path = write(tmp_path / "model" / "scheduler", STABLE_DIFFUSION)
    for where in (path, path.parent, tmp_path / "model", str(path), STABLE_DIFFUSION):
        sampler = Sampler.from_config(where)
        assert type(sampler) is PNDM
        assert repr(sampler) == (
            "PNDM(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012, steps_offset=1, "
            "skip_prk_steps=True)"
        )


def test_another_sampler_takes_over_what_it_knows() -> None:
    sampler = Euler.from_config(STABLE_DIFFUSION, use_karras_sigmas=True)
    assert type(sampler) is Euler
    assert (sampler.beta_end, sampler.steps_offset, sampler.use_karras_sigmas) == (0.012, 1, True)
    again = DDIM.from_config(sampler.config, beta_end=0.02)
    assert (again.beta_schedule, again.beta_end, again.steps_offset) == ("scaled_linear", 0.02, 1)


def test_what_nobody_chose_is_not_taken_over() -> None:
    """As in diffusers, where every class has defaults of its own; but the network stays the one it is."""
    for pndm in (PNDM.from_config(STABLE_DIFFUSION), Sampler.from_config(STABLE_DIFFUSION)):
        assert (pndm.timestep_spacing, Euler.from_config(pndm.config).timestep_spacing) == (
            "leading",
            "linspace",
        )
    chosen = PNDM(timestep_spacing="leading")  # its default, but somebody said so
    assert Euler.from_config(chosen.config).timestep_spacing == "leading"
    assert Euler.from_config(PNDM(chosen.schedule).config).timestep_spacing == "linspace"
    heun = Heun.from_config(DDPM().config)
    assert (heun.beta_start, heun.beta_end) == (1e-4, 0.02)
    assert "timestep_spacing" in pndm.config["_use_default_values"]


def test_options_of_other_samplers_survive(tmp_path: Path) -> None:
    """A configuration that goes through samplers which do not have an option still has it, as in diffusers."""
    first = DDPM(clip_sample=False, variance_type="fixed_large", timestep_spacing="trailing")
    euler = Euler.from_config(first.config)
    euler.save_config(tmp_path)
    for config in (euler.config, tmp_path):
        single = DPMSolverSinglestep.from_config(config)
        again = DDPM.from_config(single.config)
        assert repr(again) == repr(first)
    assert not json.loads((tmp_path / "scheduler_config.json").read_text())["clip_sample"]


def test_a_live_configuration_of_diffusers() -> None:
    """Its `_use_default_values` are options that no file would hold."""
    live = {**STABLE_DIFFUSION, "timestep_spacing": "leading", "_use_default_values": ["timestep_spacing"]}
    assert Euler.from_config(live).timestep_spacing == "linspace"
    assert Euler.from_config({**live, "_use_default_values": None}).timestep_spacing == "leading"


def test_null_is_off_or_says_nothing() -> None:
    """Of what cannot be None; diffusers stumbles over some of these."""
    options = ("clip_sample", "clip_sample_range", "timestep_spacing", "steps_offset", "trained_betas")
    assert repr(DDIM.from_config(dict.fromkeys(options))) == "DDIM(clip_sample=False)"
    assert repr(DDPM.from_config({"variance_type": None})) == "DDPM()"  # of DPM-Solver's files
    flow = DPMSolverMultistep.from_config({"use_dynamic_shifting": None, "variance_type": None})
    flow.set_timesteps(3)


@pytest.mark.parametrize("foreign", ["logrho", "bh1", "bh2"])
def test_solver_types_of_another_solver(foreign: str) -> None:
    for cls in (DPMSolverMultistep, DPMSolverSinglestep, EDMDPMSolverMultistep):
        sampler = cls.from_config({"solver_type": foreign, "algorithm_type": "deis"})
        assert (sampler.algorithm_type, sampler.solver_type) == ("dpmsolver++", "midpoint")


def test_singlestep_has_no_spacing_but_keeps_that_of_others() -> None:
    """Numbers of diffusers 0.42.1, of DDPM's configuration."""
    sampler = DPMSolverSinglestep.from_config(DDPM(timestep_spacing="leading", steps_offset=1).config)
    sampler.set_timesteps(8)
    assert sampler.timesteps == [999, 874, 749, 624, 500, 375, 250, 125]
    assert (sampler.timestep_spacing, sampler.steps_offset) == ("leading", 1)


def test_unknown_options_are_listed() -> None:
    with pytest.warns(UserWarning, match=r"no sampler knows the options \['brand_new', 'colour'\]"):
        sampler = Sampler.from_config({**STABLE_DIFFUSION, "colour": 3, "brand_new": True})
    assert type(sampler) is PNDM


def test_options_of_old_files() -> None:
    """Of diffusers 0.1 to 0.4; what is null says nothing."""
    old = {"_class_name": "DDPMScheduler", "tensor_format": "pt", "timestep_values": None}
    assert repr(Sampler.from_config({**old, "predict_epsilon": True})) == "DDPM()"
    assert repr(Sampler.from_config({**old, "predict_epsilon": False})) == "DDPM(prediction_type='sample')"
    assert not DDIMInverse.from_config({"set_alpha_to_zero": False}).set_alpha_to_one
    both = {"predict_epsilon": False, "prediction_type": "v_prediction", "set_alpha_to_zero": False}
    sampler = DDIMInverse.from_config({"set_alpha_to_one": True, **both})
    assert (sampler.prediction_type, sampler.set_alpha_to_one) == ("v_prediction", True)


@pytest.mark.parametrize(
    ("cls", "option"),
    [
        (LMS, {"rescale_betas_zero_snr": True}),
        (DDIM, {"use_flow_sigmas": True}),
        (FlowMatchHeun, {"invert_sigmas": True}),
        (DDIM, {"timestep_type": "continuous"}),
    ],
)
def test_what_the_network_was_trained_for_is_not_dropped_in_silence(
    cls: type[Sampler], option: dict[str, Any]
) -> None:
    with pytest.warns(
        UserWarning, match=f"{cls.__name__}.from_config: the network was trained for .*{option}"
    ):
        cls.from_config(option)
    Sampler.from_config({**STABLE_DIFFUSION, **dict.fromkeys(option, None)})


@pytest.mark.parametrize(
    "sampler",
    [
        DDPM(variance_type="learned_range", beta_schedule="sigmoid", thresholding=True),
        DDIM(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3, rescale_betas_zero_snr=True),
        DDIM(eta=0.5, use_clipped_model_output=True),
        DDIMInverse(clip_sample=False),
        PNDM(skip_prk_steps=True),
        Euler(use_karras_sigmas=True, sigma_min=0.03, final_sigmas_type="sigma_min"),
        Heun(beta_start=0.0001, use_beta_sigmas=True),
        KDPM2(timestep_spacing="trailing"),
        LMS(prediction_type="v_prediction", order=2),
        LCM(original_inference_steps=100),
        EDMEuler(sigma_max=40.0, sigma_schedule="exponential"),
        EDMHeun(s_churn=3.0),
    ],
    ids=repr,
)
def test_what_is_written_is_read_again(sampler: Sampler, tmp_path: Path) -> None:
    path = sampler.save_config(tmp_path / "scheduler")
    assert path == tmp_path / "scheduler" / "scheduler_config.json"
    again = Sampler.from_config(tmp_path)
    assert type(again) is type(sampler)
    assert again.config == {**sampler.config, "_use_default_values": again.config["_use_default_values"]}
    assert [p.name for p in path.parent.iterdir()] == ["scheduler_config.json"]


def test_what_a_file_holds(tmp_path: Path) -> None:
    """Of diffusers 0.42.1, all options, under its names; of ours those that are not at their defaults."""
    sampler = DDIM(beta_schedule="cosine", prediction_type="v_prediction", clip_sample=False)
    theirs = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "trained_betas": None,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
    }
    assert json.loads(sampler.save_config(tmp_path).read_text()) == theirs
    sampler.eta = 0.5
    assert json.loads(sampler.save_config(tmp_path).read_text()) == {**theirs, "eta": 0.5}
    single = DPMSolverSinglestep().save_config(tmp_path).read_text()
    assert "timestep_spacing" not in single
    assert json.loads(single)["lambda_min_clipped"] == -math.inf
    assert DPMSolverSinglestep.from_config(tmp_path).lambda_min_clipped == -math.inf


def test_what_a_file_says_holds_for_every_sampler(tmp_path: Path) -> None:
    """As in a file that diffusers wrote: how DDPM spaces timesteps, though in memory nobody chose it."""
    DDPM(beta_schedule="cosine").save_config(tmp_path)
    assert Heun.from_config(tmp_path).timestep_spacing == "leading"
    assert Heun.from_config(DDPM(beta_schedule="cosine").config).timestep_spacing == "linspace"


def test_a_sampler_of_ones_own_keeps_its_parents_name() -> None:
    class Mine(DDIM):
        pass

    assert Mine().config["_class_name"] == "DDIMScheduler"
    assert type(Sampler.from_config({"_class_name": "DDIMScheduler"})) is DDIM
    assert type(Mine.from_config({"_class_name": "DDIMScheduler"})) is Mine


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"neither scheduler_config.json nor scheduler/scheduler_config"
    ):
        Sampler.from_config(tmp_path)
    with pytest.raises(
        ValueError, match=r"there is no sampler for _class_name 'VQDiffusionScheduler'.*'DDIMSch"
    ):
        Sampler.from_config(write(tmp_path, {"_class_name": "VQDiffusionScheduler"}))
    with pytest.raises(ValueError, match="there is no sampler for _class_name None"):
        Sampler.from_config({})
    (tmp_path / "scheduler_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"scheduler_config.json: not JSON"):
        Sampler.from_config(tmp_path)
    with pytest.raises(ValueError, match="prediction_type must be one of"):
        Sampler.from_config({**STABLE_DIFFUSION, "prediction_type": "noise"})
