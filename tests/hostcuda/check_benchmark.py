"""The GPU's benchmark at tiny sizes: its sections on CuPy's own streams, events, graphs and memory pools."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_checks, gpu_device, machine
from benchmarks.gpu_sections import SECTIONS
from minidiff.testing import CASES
from tests.gpu_fakes import TINY

PLAN = replace(
    TINY, dtypes=("bfloat16",), batches=(1,), batch=1, channels=2, ddim=1, check_steps=1, rounds=1, least=1e-9
)
SEED = "0"  # not a new one: at these sizes a group has one number, whose slope is 300 times what was rounded
FEW = [case for several in (CASES[::-1], CASES) for case in {case.op: case for case in several}.values()]
NO_HOLD = 'extern "C" __global__ void hold(unsigned long long nanoseconds) {}'  # g++ knows no clock of a GPU


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Any]:
    """Run the command for a section; the figures that it saved."""
    monkeypatch.setattr(gpu, "Plan", lambda: PLAN)
    monkeypatch.setattr(gpu_checks, "CASES", FEW)
    monkeypatch.setattr(gpu_device, "_HOLD", NO_HOLD)
    monkeypatch.setattr(machine, "RESULTS", tmp_path)

    def run(section: str) -> Any:
        code = gpu.main(["--save", "first", "--only", section, "--seed", SEED])
        (saved,) = json.loads((tmp_path / "first.json").read_text(encoding="utf-8"))["runs"]
        assert saved["failures"] == saved["left out"] == []
        assert code == 0
        assert saved["gpu"] == "an H100 in host memory"
        return saved[section]

    return run


@pytest.mark.parametrize("section", SECTIONS)
def test_section(run: Callable[[str], Any], section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_torch", lambda device: None)
    figures = run(section)
    assert figures if section != "compiled" else figures == []
    if section == "step":
        assert list(figures[0]["ms"]) == ["captured", "minidiff"]


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("section", ["group_norm", "step"])
def test_section_beside_pytorch(
    run: Callable[[str], Any], section: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_device.CudaDevice, "torch_device", "cpu")
    figures = run(section)
    row = figures[0] if section == "step" else figures["rows"][0]
    assert {"minidiff", "PyTorch", "channels_last"} <= set(row["ms"])
