"""Doctor, and examples as users run them, at small size."""

from __future__ import annotations

import functools
import logging
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff.diffusion import GaussianDiffusion
from minidiff.doctor import main as doctor

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run an example with arguments; what it printed."""

    def run(script: str, *arguments: Any) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--device", "cuda"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        assert not end.value.code
        return capsys.readouterr().out

    return run


def test_training_and_sampling(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, arrays = tmp_path / "run", tmp_path / "x.npz"
    few = functools.partialmethod(GaussianDiffusion.sample, steps=2)  # of 50, which would take two minutes
    monkeypatch.setattr(GaussianDiffusion, "sample", few)
    said = run("train_digits.py", "--steps", 3, "--channels", 2, "--batch-size", 8, "--output-dir", folder)
    assert "device: cuda (asked for)" in said
    assert "step 3/3" in said
    assert (folder / "samples" / "step-000003.png").stat().st_size > 1000
    monkeypatch.undo()
    run_of = ("--checkpoint", folder, "--labels", "0-2", "--per-label", 2, "--steps", 3)
    run("sample.py", *run_of, "--output", tmp_path / "x.png", "--save-arrays", arrays)
    assert np.isfinite(np.load(arrays)["images"]).all()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(["--device", "cuda"]) == 0
    said = capsys.readouterr().out
    assert "cuda: works" in said
    assert "an H100 in host memory, compute capability 9.0, 6.0 of 6.0 GiB free" in said
    for name in ("convolution", "group norm", "attention"):
        assert f"{name} " in said.partition("cuda: works")[2]
