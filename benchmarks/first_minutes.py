"""How long everything takes that a new user types, in a new clone with a new environment.

    python -m benchmarks.first_minutes [--save]

Commands run one after another, as the README and the guide have them, each with its exit code and its seconds. Packages
come from the index or from pip's cache. Containers are left to .ci/check_images, which needs root.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine

ROOT = Path(__file__).parent.parent
SMALL = "--channels 16,32 --num-epochs 2 --output-dir outputs/small"
FOLDER = "outputs/small/pipeline"
COMMANDS = [  # and the exit code that each shall have
    ("python3 -m venv .venv && .venv/bin/pip install .", 0),
    (".venv/bin/python -m minidiff doctor", 0),
    (".venv/bin/python examples/train_digits.py --device cpu", 0),
    (
        ".venv/bin/python examples/sample.py --labels 0-9 --per-label 12 --guidance 2 --steps 50 --seed 0 "
        "--output samples.png --save-arrays samples.npz --save-strip strip.png",
        0,
    ),
    (".venv/bin/python examples/xor.py", 0),
    (".venv/bin/python examples/denoise.py", 0),
    (".venv/bin/python examples/noise_strip.py", 0),
    (f".venv/bin/python examples/finetune.py --data-dir digits {SMALL}", 0),
    (f".venv/bin/python -m minidiff convert {FOLDER}", 0),
    (f".venv/bin/python examples/sample_pretrained.py --model {FOLDER} --sampler heun --steps 20", 0),
    (f".venv/bin/python examples/compare_samplers.py --model {FOLDER}", 0),
    (f".venv/bin/python examples/img2img.py --model {FOLDER} --data-dir digits", 0),
    (f".venv/bin/python examples/inpaint.py --model {FOLDER} --data-dir digits", 0),
    ('.venv/bin/pip install ".[test]" && .venv/bin/python -m pytest -n auto', 0),
    ('.venv/bin/pip install ".[docs]" && .venv/bin/mkdocs build', 0),
    ('.venv/bin/pip install ".[cuda12]"', 0),
    (".venv/bin/python -m minidiff doctor --device cuda", None),  # 0 with a GPU, 1 without
]


def environment() -> dict[str, str]:
    """That of a user: nothing that points to this checkout or slows BLAS down."""
    return {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "OPENBLAS_CORETYPE")
    }


def main() -> int:
    """Run the commands; the exit code is 1 if one of them ends otherwise than it should."""
    parser = argparse.ArgumentParser(description="Time every command that a new user types.")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/first_minutes.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as parent:
        clone = Path(parent) / "minidiff"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        for command, expected in COMMANDS:
            start = time.perf_counter()
            done = subprocess.run(
                command, shell=True, cwd=clone, env=environment(), capture_output=True, text=True, check=False
            )
            rows.append(
                {
                    "command": command,
                    "seconds": round(time.perf_counter() - start, 1),
                    "exit code": done.returncode,
                }
            )
            print(f"{rows[-1]['seconds']:7.1f} s  {command}", flush=True)
            if expected is not None and done.returncode != expected:
                print(f"{done.stdout}{done.stderr}\nexit code {done.returncode}", file=sys.stderr)
                return 1
    if args.save:
        print(machine.save("first_minutes", {"commands": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
