"""The example scripts as a user runs them, at small size, and what they say to wrong input."""

from __future__ import annotations

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


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert "--device" in done.stdout


def test_wrong_input_ends_with_2_and_a_reason(digits: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "checkpoint.json").write_text("{}")
    cases = {
        ("xor.py", "--device", "tpu"): "unknown device 'tpu'; installed backends offer ['cpu', 'cuda']",
        ("sample.py", "--checkpoint", digits, "--labels", "3-12"): "labels: '3-12' is not within 0 to 9",
        ("sample.py", "--checkpoint", digits, "--labels", "cat"): "labels: expected numbers and ranges",
        ("sample.py", "--checkpoint", digits, "--sampler", "magic"): "invalid choice: 'magic'",
        ("sample.py", "--checkpoint", digits, "--steps", "0"): "--steps: must be at least 1, got 0",
        ("sample.py", "--checkpoint", digits, "--steps", "1001"): "--steps: at most 1000, got 1001",
        ("sample.py", "--checkpoint", tmp_path / "nothing"): "no checkpoint here",
        ("sample.py", "--checkpoint", damaged): "checkpoint.json: expected format",
        ("train_images.py", "--data-dir", tmp_path / "nothing"): "nothing",
        ("train_digits.py", "--output-dir", digits, "--steps", "5"): "--restart",
        ("train_digits.py", "--output-dir", tmp_path / "x", "--batch-size", "0"): "--batch-size",
    }
    for command, reason in cases.items():
        done = run(*command)  # type: ignore[arg-type]
        assert done.returncode == 2, (command, done.stdout, done.stderr)
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_cuda_without_a_gpu_says_cause_and_fix() -> None:
    from minidiff import BackendUnavailable, get_backend

    try:
        get_backend("cuda")
    except BackendUnavailable:
        done = run("xor.py", "--device", "cuda")
        assert done.returncode == 2
        assert "pip install" in done.stderr or "nvidia-smi" in done.stderr
    else:
        assert run("xor.py", "--device", "cuda").returncode == 0
