"""Writes tests/references/schedulers.json: what diffusers' schedulers give in float64, for the suite without PyTorch.

Run as `python -m tests.interop.write_scheduler_references` after a change of `scheduler_cases` or `scheduler_loop`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from tests.interop.diffusers_loop import run
from tests.interop.scheduler_cases import CASES, Case
from tests.scheduler_loop import checksum

PATH = Path(__file__).parents[1] / "references" / "schedulers.json"


def reference(case: Case) -> dict[str, Any]:
    """The case, its timesteps, a checksum of every image, and the last image."""
    timesteps, images = run(case, double=True)
    return {
        "name": case.name,
        "options": {**case.options, **case.step},
        "steps": case.steps,
        "set_timesteps": case.timesteps,
        "timesteps": [round(t, 4) for t in timesteps],
        "checksums": [_short(checksum(x)) for x in images],
        "end": [_short(x) for x in images[-1].ravel()],
    }


def _short(x: float) -> float:
    return float(f"{x:.8g}")


def main() -> None:
    """Write the file, a line for each case."""
    lines = [json.dumps(reference(case), separators=(",", ":")) for case in CASES]
    head = json.dumps({"diffusers": diffusers.__version__, "torch": torch.__version__})
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(f'{head[:-1]}, "cases": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
    print(f"{PATH}: {len(lines)} cases, {PATH.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
