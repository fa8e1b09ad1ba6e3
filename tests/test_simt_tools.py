"""The tools around the emulator: its folder of compiled kernels, AddressSanitizer, and the verdicts on planted bugs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from minidiff_cupy import sources
from tests.simt import emulator, mutate
from tests.simt.emulator import sanitized
from tests.simt.mutants import linear_combination, placement

ROOT = Path(__file__).parent.parent


def test_libraries_nobody_used_for_long_are_removed_and_the_oldest_of_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "KEPT_BYTES", 250)
    for days in (0, 1, 2, 15):
        library = tmp_path / f"{days}.so"
        library.write_bytes(bytes(100 if days < 15 else 1))
        os.utime(library, (0, time.time() - days * 86400))
    (tmp_path / "made").mkdir()  # what another process compiles
    emulator.prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0.so", "1.so", "made"}


def test_a_library_that_was_used_is_young_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "_cache", lambda: tmp_path)
    main = {"main.cpp": 'extern "C" int number() { return 5; }\n'}
    assert emulator.build(main, "main.cpp", []).number() == 5
    (library,) = tmp_path.glob("*.so")
    os.utime(library, (0, 0))
    assert emulator.build(main, "main.cpp", []).number() == 5
    assert time.time() - library.stat().st_mtime < 60


@pytest.mark.parametrize(
    ("status", "log", "verdict", "exit_status"),
    [
        (1, "E   AssertionError: off by 3", "found", 0),
        (-11, "", "found", 0),
        (-1, "", "found", 0),
        (0, "", "SURVIVES", 1),
        (1, "EmulatorError: main.cpp: g++ failed", "IS NO TEST", 1),
        (5, "no tests ran", "IS NO TEST", 1),
    ],
)
def test_verdicts_on_planted_bugs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    log: str,
    verdict: str,
    exit_status: int,
) -> None:
    def run_tests(folder: Path, tests: Any, *, sanitized: bool = False) -> tuple[int, str]:
        return status, log

    monkeypatch.setattr(mutate, "run_tests", run_tests)
    assert mutate.main(["linear_combination"]) == exit_status
    lines = capsys.readouterr().out.splitlines()
    bugs = len(linear_combination.MUTANTS)
    end = lines.index(f"{bugs * exit_status} of {bugs} survive")
    each = [line for line in lines[:end] if line.startswith(f"{verdict} linear_combination.cu: ")]
    alive = [line for line in lines[end + 1 :] if not line.startswith(" ")]
    assert len(each) == bugs
    assert alive == each * exit_status  # once more, at the end, where a long log is read


OUT_BY_A_THREAD = """
import numpy as np
from tests.simt import namespace as xp
from tests.simt.emulator import working
def test_it():
    x, y = xp.ones(64, dtype=np.float32), xp.empty(64, dtype=np.float32)
    working().load("k.cu", "k", ())((1,), (64,), (y, x))
    assert {seen}
"""


@pytest.mark.parametrize(
    ("seen", "new", "verdict"),
    [
        ("True", "x[threadIdx.x + 1] * 0", "Sanitizer: heap-buffer-overflow"),
        ("True", "x[threadIdx.x] * 2", "SURVIVES"),
        ("float(y[0]) == 1", "x[threadIdx.x] * 2", "found"),
    ],
)
def test_what_is_only_read_outside_is_found_by_address_sanitizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str, new: str, verdict: str
) -> None:
    if sanitized():
        pytest.skip("already under AddressSanitizer")
    (tmp_path / "k.cu").write_text(
        "__global__ void k(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x]; }"
    )
    test = tmp_path / "test_it.py"
    test.write_text(OUT_BY_A_THREAD.format(seen=seen))
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    monkeypatch.setattr(linear_combination, "TESTS", [str(test)], raising=False)
    found, line = mutate.examine("linear_combination", "k.cu", "= x[threadIdx.x]", f"= {new}")
    assert found is (verdict != "SURVIVES")
    assert verdict in line


def test_a_bug_that_cannot_be_planted_any_more_survives() -> None:
    found, line = mutate.examine("linear_combination", "linear_combination.cu", "no such text", "")
    assert not found
    assert line.startswith("CANNOT BE PLANTED linear_combination.cu has the text 0 times")


@pytest.mark.parametrize(("new", "found"), [("WHICH of several", True), ("Which of several", False)])
def test_a_bug_in_a_file_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str, found: bool
) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "def test_it():\n    from minidiff_cupy import KERNELS, placement\n    assert 'Which' in placement.__doc__\n"
    )
    monkeypatch.setattr(placement, "TESTS", [str(test)])
    result = mutate.examine("placement", "minidiff_cupy/placement.py", "Which of several", new)
    assert result[0] is found
    assert result[1].startswith("found" if found else "SURVIVES")


OUTSIDE = """
import sys
import numpy as np
sys.path[:0] = [{root!r}, {backends!r}]
from pathlib import Path
from tests.simt import namespace as xp
from tests.simt.emulator import Emulator
y = xp.empty(100, dtype=np.float32)
Emulator(Path({folder!r})).load("k.cu", "k", ())((1,), (64,), (y,), shared_mem=64)
"""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("y[threadIdx.x + 37] = 1;", "heap-buffer-overflow"),
        ("__shared__ float a[63];\nfloat* b = a; b[threadIdx.x] = 1; y[0] = b[0];", "global-buffer-overflow"),
        ("extern __shared__ float a[];\na[threadIdx.x % 17] = 1; y[0] = a[0];", "use-after-poison"),
        ("float a[4], *b = a;\nfor (int i = 0; i < 4 + threadIdx.x % 2; ++i) b[i] = i; y[0] = b[1];", "stack-buffer"),
        ("__syncthreads(); y[threadIdx.x] = 1;", ""),
    ],
)  # fmt: skip
def test_address_sanitizer_finds_what_lies_outside(tmp_path: Path, body: str, error: str) -> None:
    if sanitized():
        pytest.skip("already under AddressSanitizer")
    (tmp_path / "k.cu").write_text(f"__global__ void k(float* y) {{\n{body} }}\n")
    script = OUTSIDE.format(root=str(ROOT), backends=str(ROOT / "backends"), folder=str(tmp_path))
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "tests.simt.asan", "--script", str(tmp_path / "script.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode != 0) == bool(error), done.stderr[-2000:]
    assert error in done.stderr
    assert not error or "k.cu:" in done.stderr


def test_planted_bugs_stand_in_the_kernels_once(tmp_path: Path) -> None:
    for topic in mutate.topics():
        mutants = importlib.import_module(f"tests.simt.mutants.{topic}").MUTANTS
        for number, (file, old, new) in enumerate(mutants):
            assert old != new
            mutate.plant(tmp_path / f"{topic}{number}", file, old, new)
