"""Plant bugs in the kernels and in what launches them, one at a time, and see that the tests find them:
`python -m tests.simt.mutate all` or a topic.

`mutants/<topic>.py` holds MUTANTS, a list of (file, old text, new text); the old text stands in the file exactly
once. A file is a kernel's, or with its package one of Python's: "minidiff_cupy/graphs.py". TESTS, if it is there,
names the test files; `tests/test_simt_<topic>.py` by default. A kernel that only reads what lies outside an array
may come away with it, by chance: where the tests find nothing they run once more under AddressSanitizer, as CI
runs them, too. Exit 1 if a planted bug survives, or cannot be planted any more.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NoReturn

import pytest

from minidiff_cupy import sources
from tests.simt import asan, emulator

HERE = Path(__file__).parent
KERNELS = "kernels"
ALONE = "import sys; from tests.simt import mutate; mutate.test(sys.argv[1], sys.argv[2:])"
LONGEST = 120  # seconds for the tests of one planted bug; one that makes a kernel run for ever is found, too


def topics() -> list[str]:
    """All topics that plant bugs."""
    return sorted(path.stem for path in (HERE / "mutants").glob("*.py") if path.stem != "__init__")


def run_tests(folder: Path, tests: Sequence[str], *, sanitized: bool = False) -> tuple[int, str]:
    """The exit status of pytest with the code in `folder`, in a process of its own, and what it printed.

    The status is -1 if it took too long.
    """
    with tempfile.TemporaryFile("w+") as log:
        child = os.fork()
        if child == 0:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            if sanitized:
                alone = [sys.executable, "-c", ALONE, str(folder), "--capture=sys", *tests]
                os.execve(sys.executable, alone, asan.environment())
            test(folder, tests)
        status = _wait(child, math.inf if sanitized else LONGEST)  # what passed without it comes to an end
        log.seek(0)
        return status, log.read()


def test(folder: Path | str, tests: Sequence[str]) -> NoReturn:
    """Run pytest with the code in `folder`, and end this process with its status."""
    _use(Path(folder))
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=line", *tests])
    sys.stdout.flush()
    os._exit(int(status))


def _use(folder: Path) -> None:
    """Let this process run the kernels, or the package, that `folder` holds."""
    if (folder / KERNELS).exists():
        emulator.working().folder = folder / KERNELS
        return
    for name in [name for name in sys.modules if name.startswith(("minidiff", "tests"))]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    for package in folder.iterdir():  # now, as pytest puts the repository first
        importlib.import_module(package.name)


def _wait(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


def plant(folder: Path, file: str, old: str, new: str) -> None:
    """Change a copy of the kernels, or of a package.

    Raises
    ------
    ValueError
        If the old text does not stand in the file exactly once.
    """
    name, slash, inside = file.partition("/")
    if slash:
        source, copy = Path(importlib.import_module(name).__file__ or "").parent, folder / name
    else:
        source, copy, inside = sources.FOLDER, folder / KERNELS, file
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / inside).read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{file} has the text {text.count(old)} times, not once: {old!r}")
    (copy / inside).write_text(text.replace(old, new), encoding="utf-8")


def reason(status: int, log: str) -> str:
    """Why the tests failed, in a line."""
    if status == -1:
        return f"not done after {LONGEST} s"
    if status < 0:
        return f"killed by signal {-status}"
    telling = "Error", "Sanitizer: ", "FAILED"
    lines = [line for line in log.splitlines() if any(word in line for word in telling)]
    return lines[0].strip()[:150] if lines else f"pytest's exit status is {status}"


def examine(topic: str, file: str, old: str, new: str) -> tuple[bool, str]:
    """Plant a bug: whether a test of its topic found it, and in a few words how."""
    module = importlib.import_module(f"tests.simt.mutants.{topic}")
    tests = getattr(module, "TESTS", [f"tests/test_simt_{topic}.py"])
    shown = f"{file}: {' '.join(old.split())!r} -> {' '.join(new.split())!r}"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        try:
            plant(Path(work), file, old, new)
        except ValueError as error:
            return False, f"CANNOT BE PLANTED {error}"
        status, log = run_tests(Path(work), tests)
        if status == 0 and Path(work, KERNELS).exists():
            status, log = run_tests(Path(work), tests, sanitized=True)
    seconds = time.monotonic() - start
    if status == 0:
        return False, f"SURVIVES {shown}"
    if "g++ failed" in log or status not in (1, -1, -11, -6):
        return False, f"IS NO TEST {shown}\n    {reason(status, log)}"
    return True, f"found {shown}\n    {seconds:.1f} s: {reason(status, log)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run topics and return 1 if a planted bug survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.simt.mutate", description=__doc__)
    parser.add_argument("topic", nargs="+", choices=["all", *topics()])
    asked = parser.parse_args(arguments).topic
    bugs = [
        (topic, *bug)
        for topic in (topics() if "all" in asked else asked)
        for bug in importlib.import_module(f"tests.simt.mutants.{topic}").MUTANTS
    ]
    alive = []
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
        for found, line in pool.map(examine, *zip(*bugs, strict=True)):
            print(line, flush=True)
            alive += [] if found else [line]
    print("\n".join([f"{len(alive)} of {len(bugs)} survive", *alive]))
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
