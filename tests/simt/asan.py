"""Tests under AddressSanitizer: `python -m tests.simt.asan tests/test_simt_normalization.py`, with pytest's arguments.
`--script FILE` runs a script instead.

Every array of NumPy then has a margin, shared memory has one too, and a kernel that reads or writes outside is
shown with file and line. Python itself is not compiled for it, so the library comes in by LD_PRELOAD; the
emulator sees that and compiles kernels for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.simt.emulator import compiler

OPTIONS = {
    "detect_leaks": 0,  # Python's own
    "detect_stack_use_after_return": 0,  # fibers have stacks of their own
    "allocator_may_return_null": 1,  # as malloc does; NumPy raises MemoryError
    "handle_segv": 1,
}


def environment() -> dict[str, str]:
    """The environment of a process under AddressSanitizer, which the emulator recognizes."""
    command = [compiler(), "-print-file-name=libasan.so"]
    library = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    if not library.is_absolute():
        raise SystemExit(f"{compiler()} has no AddressSanitizer; install one with: apt-get install libasan8")
    return os.environ | {
        "LD_PRELOAD": str(library.resolve()),
        "ASAN_OPTIONS": ":".join(f"{key}={value}" for key, value in OPTIONS.items()),
        "PYTHONMALLOC": "malloc",
        "MINIDIFF_TEST_DEVICES": "simt",
    }


def main() -> None:
    """Become pytest under AddressSanitizer."""
    pytest = ["-m", "pytest", "-p", "no:cacheprovider", "--capture=sys"]  # what it reports goes past sys
    script = sys.argv[1:2] == ["--script"]
    arguments = sys.argv[2:] if script else pytest + sys.argv[1:]
    os.execve(sys.executable, [sys.executable, *arguments], environment())


if __name__ == "__main__":
    main()
