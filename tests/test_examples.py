"""The example scripts as a user runs them, at small size, and what they say to wrong input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(p.name for p in EXAMPLES.glob("*.py"))


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train_digits.py, too short to draw digits."""
    folder = tmp_path_factory.mktemp("digits")
    done = run("train_digits.py", "--device", "cpu", "--steps", 4, "--channels", 4, "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    for text in ("device: cpu (asked for)", "parameters", f"files: {folder}", "step 4/4", "predicting zero"):
        assert text in done.stdout
    assert (folder / "samples" / "step-000004.png").stat().st_size > 1000
    return folder


def test_samples(digits: Path, tmp_path: Path) -> None:
    done = run(
        "sample.py", "--checkpoint", digits, "--labels", "0-2,7", "--per-label", 3, "--steps", 4, "--batch-size", 5,
        "--output", tmp_path / "s.png", "--save-arrays", tmp_path / "s.npz", "--sampler", "ddpm",
        "--save-strip", tmp_path / "strip.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    arrays = np.load(tmp_path / "s.npz")
    assert arrays["images"].shape == (12, 1, 8, 8)
    assert arrays["images"].min() >= -1
    assert arrays["images"].max() <= 1
    assert arrays["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 7, 7, 7]
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert (tmp_path / "strip.png").stat().st_size > 1000


def test_finished_run_is_left_alone(digits: Path) -> None:
    done = run("train_digits.py", "--device", "cpu", "--steps", 4, "--channels", 4, "--output-dir", digits)
    assert done.returncode == 0
    assert "This run is finished" in done.stdout


def test_train_images_from_a_folder_of_pictures(tmp_path: Path) -> None:
    from PIL import Image

    for kind in ("red", "blue"):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (20 + i, 12), kind).save(tmp_path / "pictures" / kind / f"{i}.png")
    options = ("--steps", 2, "--channels", 2, "--batch-size", 4, "--output-dir", tmp_path / "run")
    done = run("train_images.py", "--data-dir", tmp_path / "pictures", "--image-size", 8, *options)
    assert done.returncode == 0, done.stderr
    options = ("--per-label", 2, "--steps", 2, "--output", tmp_path / "x.png")
    done = run("sample.py", "--checkpoint", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    done = run("train_images.py", "--data-dir", tmp_path / "pictures", "--image-size", 10)
    assert done.returncode == 2
    assert "10x10 pixels do not divide by 4" in done.stderr


def test_the_small_ones(tmp_path: Path) -> None:
    done = run("xor.py")
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.split("loss ")[-1].split()[0])
    assert loss < 0.01
    done = run("denoise.py", "--steps", 30, "--output-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "denoised.png").exists()
    done = run("noise_strip.py", "--beta-schedule", "sigmoid", "--output-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sigmoid.png").exists()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of diffusers that finetune.py wrote after three steps with a new network."""
    folder = tmp_path_factory.mktemp("unet")
    command = (
        "--data-dir", "digits", "--channels", "4,8", "--layers-per-block", 1, "--num-epochs", 1,
        "--train-batch-size", 600, "--ddpm-num-inference-steps", 2, "--output-dir", folder, "--device", "cpu",
    )  # fmt: skip
    done = run("finetune.py", *command)
    assert done.returncode == 0, done.stderr
    for text in (
        "trained by GaussianDiffusion",
        "step 3/3",
        f"sample_pretrained.py --model {folder / 'pipeline'}",
    ):
        assert text in done.stdout
    assert {p.name for p in (folder / "pipeline").iterdir()} == {"model_index.json", "unet", "scheduler"}
    assert (folder / "samples" / "step-000003.png").stat().st_size > 1000
    assert "This run is finished" in run("finetune.py", *command).stdout
    return folder / "pipeline"


def test_samples_from_a_folder_of_diffusers(pipeline: Path, tmp_path: Path) -> None:
    done = run(
        "sample_pretrained.py", "--model", pipeline, "--labels", "3,5-6", "--count", 2, "--steps", 3,
        "--sampler", "ddim", "--guidance", 2, "--guidance-rescale", 0.7, "--guidance-interval", 0.1, 5,
        "--batch-size", 4, "--output", tmp_path / "s.png", "--save-arrays", tmp_path / "s.npz",
        "--save-strip", tmp_path / "strip.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sampler: DDIM(" in done.stdout
    arrays = np.load(tmp_path / "s.npz")
    assert arrays["images"].shape == (6, 1, 8, 8)
    assert arrays["labels"].tolist() == [3, 3, 5, 5, 6, 6]
    for name in ("s.png", "strip.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_a_folder_of_diffusers_is_trained_further(pipeline: Path, tmp_path: Path) -> None:
    before = (pipeline / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    done = run(
        "finetune.py", "--model", pipeline, "--data-dir", "digits", "--num-epochs", 1, "--train-batch-size", 900,
        "--random-flip", "--gradient-checkpointing", "--min-snr-gamma", 5, "--output-dir", tmp_path,
        "--ddpm-num-inference-steps", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = (tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert len(after) == len(before)
    assert after != before
    scheduler = "scheduler/scheduler_config.json"
    assert (tmp_path / "pipeline" / scheduler).read_text() == (pipeline / scheduler).read_text()


def test_pictures_of_another_size_are_read_in_the_colours_of_the_network(
    pipeline: Path, tmp_path: Path
) -> None:
    from PIL import Image

    for i in range(11):  # the network has labels for ten classes, and one that means any
        (tmp_path / "pictures" / f"{i:02}").mkdir(parents=True)
        Image.new("RGB", (20, 18), (20 * i, 9, 200)).save(tmp_path / "pictures" / f"{i:02}" / "x.png")
    done = run(
        "finetune.py", "--model", pipeline, "--data-dir", tmp_path / "pictures", "--resolution", 16,
        "--num-epochs", 1, "--ddpm-num-inference-steps", 1, "--output-dir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "pipeline" / "unet" / "config.json").read_text())
    assert (config["sample_size"], config["in_channels"]) == (16, 1)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("img2img.py", ("--data-dir", "digits", "--strengths", "0.5,1", "--guidance", 2, "--label", 3)),
        (
            "inpaint.py",
            ("--data-dir", "digits", "--per-picture", 2, "--jump-length", 1, "--jump-n-sample", 2),
        ),
        (
            "inpaint.py",
            ("--data-dir", "digits", "--method", "blend", "--mask", "mask.png", "--sampler", "heun"),
        ),
        ("compare_samplers.py", ("--samplers", "ddim,heun", "--steps", "2,3")),
    ],
)
def test_pictures_from_a_folder_of_diffusers(
    script: str, options: tuple[str, ...], pipeline: Path, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    options = tuple(str(tmp_path / "mask.png") if option == "mask.png" else option for option in options)
    steps = () if "--steps" in options else ("--steps", 3)
    done = run(script, "--model", pipeline, "--count", 2, *steps, *options, "--output", tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[0] > 100


def test_samplers_are_compared_that_fit_the_folder(pipeline: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline, tmp_path / "edm")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "EDMEulerScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    done = run("compare_samplers.py", "--model", folder, "--steps", "2", "--output", tmp_path / "x.png")
    assert done.returncode == 0, done.stderr
    assert "3 samplers: " in done.stdout
    done = run("sample_pretrained.py", "--model", folder, "--sampler", "heun", "--output", tmp_path / "x.png")
    assert done.returncode == 2
    assert "'heun' does not fit a network made for EDMEuler(); those that do are ['edm-euler'" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert "--device" in done.stdout


def test_wrong_input_ends_with_2_and_a_reason(digits: Path, pipeline: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "checkpoint.json").write_text("{}")
    cases = {
        ("xor.py", "--device", "tpu"): "unknown device 'tpu'; installed backends offer ['cpu', 'cuda']",
        ("sample.py", "--checkpoint", digits, "--labels", "3-12"): "labels: '3-12' is not within 0 to 9",
        ("sample.py", "--checkpoint", digits, "--labels", "cat"): "labels: expected numbers and ranges",
        ("sample.py", "--checkpoint", digits, "--sampler", "magic"): "invalid choice: 'magic'",
        ("sample.py", "--checkpoint", digits, "--steps", "0"): "--steps: must be at least 1, got 0",
        (
            "sample.py",
            "--checkpoint",
            digits,
            "--steps",
            "1001",
        ): "1001 steps are not from 1 to the 1000 timesteps",
        ("sample.py", "--checkpoint", tmp_path / "nothing"): "no checkpoint here",
        ("sample.py", "--checkpoint", damaged): "checkpoint.json: expected format",
        ("train_images.py", "--data-dir", tmp_path / "nothing"): "nothing",
        ("train_digits.py", "--output-dir", digits, "--steps", "5"): "--restart",
        ("train_digits.py", "--output-dir", tmp_path / "x", "--batch-size", "0"): "--batch-size",
        ("finetune.py", "--model", tmp_path / "nothing", "--data-dir", "digits"): "nothing/model_index.json",
        ("finetune.py", "--model", pipeline, "--data-dir", "digits", "--resolution", "16"): "8x8, not 16x16",
        (
            "finetune.py",
            "--model",
            pipeline,
            "--data-dir",
            "digits",
            "--ddpm-num-inference-steps",
            "2000",
        ): "2000 steps are not from 1 to the 1000 timesteps",
        ("finetune.py", "--data-dir", "digits", "--channels", "8,x"): "--channels: expected numbers",
        ("sample_pretrained.py", "--model", digits): "model_index.json",
        (
            "sample_pretrained.py",
            "--model",
            pipeline,
            "--output",
            tmp_path / "nowhere" / "x.png",
        ): "there is no folder",
        (
            "img2img.py",
            "--model",
            pipeline,
            "--data-dir",
            "digits",
            "--label",
            "99",
        ): "'99' is not within 0 to 10",
        ("compare_samplers.py", "--model", pipeline, "--steps", "5,2000"): "2000 steps are not from 1 to",
        ("sample_pretrained.py", "--model", pipeline, "--steps", "2000"): "2000",
        (
            "sample_pretrained.py",
            "--model",
            pipeline,
            "--guidance-rescale",
            "2",
        ): "rescale must lie in [0, 1]",
        (
            "img2img.py",
            "--model",
            pipeline,
            "--data-dir",
            "digits",
            "--strengths",
            "2",
        ): "above 0 and at most 1",
        ("inpaint.py", "--model", pipeline, "--data-dir", "digits", "--mask", "sky"): "--mask: neither left",
        ("compare_samplers.py", "--model", pipeline, "--samplers", "magic"): "sampler 'magic' does not fit",
    }
    for command, reason in cases.items():
        done = run(*command)  # type: ignore[arg-type]
        assert done.returncode == 2, (command, done.stdout, done.stderr)
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_cuda_without_a_gpu_says_cause_and_fix() -> None:
    from minidiff import BackendUnavailable, get_backend

    done = run("xor.py", "--device", "cuda")
    if done.returncode:
        assert done.returncode == 2
        with pytest.raises(BackendUnavailable) as refusal:
            get_backend("cuda")
        assert str(refusal.value) in done.stderr
    else:
        assert get_backend("cuda").device == "cuda"
