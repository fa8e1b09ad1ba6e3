"""The tools around the emulator: its folder of compiled kernels, and the verdicts on planted bugs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.simt import emulator, mutate


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
    def run_tests(folder: Path, tests: Any) -> tuple[int, str]:
        return status, log

    monkeypatch.setattr(mutate, "run_tests", run_tests)
    assert mutate.main(["sampling"]) == exit_status
    lines = capsys.readouterr().out.splitlines()
    bugs = sum(line.startswith(f"{verdict} sampling.cu: ") for line in lines)
    assert bugs >= 5
    assert lines[-1] == f"{bugs * exit_status} of {bugs} survive"


def test_a_bug_that_cannot_be_planted_any_more_survives() -> None:
    found, line = mutate.examine("sampling", "sampling.cu", "no such text", "")
    assert not found
    assert line.startswith("CANNOT BE PLANTED sampling.cu has the text 0 times")
