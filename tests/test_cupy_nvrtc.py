"""NVRTC, which needs no driver: what it compiles, what its errors say, and budgets of registers."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from minidiff_cupy import sources
from tests.simt import nvrtc as budgets
from tests.simt.nvrtc import Instance

# --- the compiler ----------------------------------------------------------------------------------------


def test_what_a_gpu_is_compiled_for() -> None:
    from minidiff_cupy.nvrtc import target

    known = (75, 80, 86, 89, 90, 100, 120)
    expected = {
        75: "sm_75",
        87: "sm_86",
        90: "sm_90a",
        100: "sm_100",
        103: "sm_100",
        121: "sm_120",
        130: "compute_120",
    }
    assert {c: target(c, known) for c in expected} == expected
    assert target(90, (75, 80, 89)) == "compute_89"


def test_a_source_is_read_with_its_headers(tmp_path: Path) -> None:
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n#include <cuda.h>\nkernel')
    (tmp_path / "b.cuh").write_text('#pragma once\n  #include "c.cuh"')
    (tmp_path / "c.cuh").write_text('#pragma once\n#include "b.cuh"')
    assert set(sources.read("a.cu", tmp_path)) == {"a.cu", "b.cuh", "c.cuh"}


@pytest.fixture
def nvrtc() -> Any:
    """The real one."""
    pytest.importorskip("cupy", reason="NVRTC comes with minidiff[cuda12]", exc_type=ImportError)
    nvrtc = importlib.import_module("minidiff_cupy.nvrtc")
    try:
        nvrtc.version()
    except RuntimeError as error:
        pytest.skip(f"NVRTC comes with minidiff[cuda12]: {error}")
    return nvrtc


KERNEL = """#include "numbers.cuh"
template <class T> __global__ void spill(T* y) {
    float x[LENGTH];
    for (int i = 0; i < LENGTH; ++i) x[i] = to_float(y[i * 256]);
    for (int k = 0; k < 9; ++k)
        for (int i = 0; i < LENGTH; ++i) x[i] = x[i] * x[(i + 7) % LENGTH] + k;
    for (int i = 0; i < LENGTH; ++i) y[i * 256] = from_float<T>(x[i]);
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels with one that takes as many registers as it is told."""
    (tmp_path / "numbers.cuh").write_text((sources.FOLDER / "numbers.cuh").read_text())
    (tmp_path / "spill.cu").write_text(KERNEL)
    return tmp_path


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_90a"])
@pytest.mark.parametrize("type_", ["float", "half", "bfloat16"])
def test_numbers_compile(nvrtc: Any, folder: Path, target: str, type_: str) -> None:
    binary = nvrtc.compile("spill.cu", [f"spill<{type_}>"], target, ("-DLENGTH=4",), folder)
    assert binary.code.startswith(b"\x7fELF")
    assert binary.names[f"spill<{type_}>"].startswith("_Z5spill")


def test_ptx_for_a_gpu_of_the_future(nvrtc: Any, folder: Path) -> None:
    assert (
        b".target sm_90"
        in nvrtc.compile("spill.cu", ["spill<float>"], "compute_90", ("-DLENGTH=4",), folder).code
    )


def test_an_error_names_file_kernel_and_line(nvrtc: Any, folder: Path) -> None:
    (folder / "spill.cu").write_text(KERNEL.replace("float x", "floating x"))
    with pytest.raises(
        nvrtc.CompilationError, match=r"(?s)^spill.cu: NVRTC cannot compile spill<half> for sm_80"
    ) as e:
        nvrtc.compile("spill.cu", ["spill<half>"], "sm_80", ("-DLENGTH=4",), folder)
    assert 'spill.cu(3): error: identifier "floating" is undefined' in str(e.value)


# --- budgets ---------------------------------------------------------------------------------------------


@pytest.fixture
def topic(nvrtc: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A topic of one kernel; the folder with its budget."""
    monkeypatch.setattr(budgets, "HERE", folder)
    monkeypatch.setattr(budgets, "topics", lambda: ["spills"])
    monkeypatch.setattr(budgets, "known_targets", lambda: ["sm_80"])
    monkeypatch.setattr(
        budgets, "instances", lambda topic: [Instance("spill.cu", "spill<float>", ("-DLENGTH=300",))]
    )
    compile = nvrtc.compile
    monkeypatch.setattr(nvrtc, "compile", lambda *arguments: compile(*arguments, folder))
    (folder / "budgets").mkdir()
    return folder / "budgets" / "spills.json"


def test_a_kernel_may_use_what_was_written_down_and_no_more(
    topic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert budgets.main(["all"]) == 1
    assert "no budget" in capsys.readouterr().out
    assert budgets.main(["spills", "--write"]) == 0
    assert budgets.main(["spills"]) == 0
    text = topic.read_text()
    registers, spilled = map(int, re.findall(r"\[(\d+), (\d+)\]", text)[0])
    assert registers == 255
    assert spilled > 0
    for less in (f"[{registers - 1}, {spilled}]", f"[{registers}, {spilled - 1}]"):
        topic.write_text(text.replace(f"[{registers}, {spilled}]", less))
        assert budgets.main(["spills"]) == 1
        assert f"[255, {spilled}], above {less}" in capsys.readouterr().out


def test_serialized_wgmma_is_a_complaint(topic: Path, nvrtc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "Potential Performance Loss: wgmma.mma_async instructions are serialized\nUsed 9 registers"
    monkeypatch.setattr(nvrtc, "compile", lambda *arguments: nvrtc.Binary(b"", {}, log))
    assert budgets.main(["spills", "--write"]) == 1
    assert budgets.main(["spills"]) == 1
