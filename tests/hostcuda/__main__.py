"""`python -m tests.hostcuda -n auto`, with pytest's arguments: the suite on the backend "cuda", without a GPU.
`--script FILE` runs a script instead.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run pytest, or a script."""
    arguments = sys.argv[1:]
    sys.path.insert(0, str(ROOT / "backends"))
    if arguments[:1] == ["--script"]:
        from tests.hostcuda.installation import install

        install()
        sys.argv = arguments[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    os.environ["MINIDIFF_TEST_DEVICES"] = "cuda"
    ours = ["-p", "tests.hostcuda.plugin", "-o", "python_files=test_*.py check_*.py"]
    return pytest.main([*ours, *arguments])


if __name__ == "__main__":
    raise SystemExit(main())
