"""What minidiff weighs: import time, installed size, and peak memory of a training step.

    python -m benchmarks.footprint [--save]

The memory is that of one step of UNet(3, 64, 3) at batch 16 on 32x32 images: forward, backward and Adam, on
the CPU; the peak of traced allocations (without the parameters made before) and of the process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

from benchmarks import machine

DISTRIBUTIONS = (
    "minidiff",
    "numpy",
    "array-api-compat",
    "ml_dtypes",
    "pillow",
    "tqdm",
    "threadpoolctl",
)


def import_seconds(module: str, runs: int = 7) -> float:
    """The median time of `import module` in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    times = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(runs)]
    return statistics.median(times)


def installed_megabytes(distribution: str) -> float:
    """The size on disk of an installed distribution's files, compiled bytecode left out."""
    files = importlib.metadata.files(distribution) or []
    paths = [Path(str(f.locate())) for f in files if f.suffix != ".pyc"]
    return sum(p.stat().st_size for p in paths if p.is_file()) / 1e6


def training_step() -> dict[str, float]:
    """Peak memory, in MB, and time of a step."""
    from minidiff import Generator, ops, value_and_grad
    from minidiff.models import UNet
    from minidiff.optim import Adam

    model = UNet(3, 64, 3)
    x = Generator(1).normal((16, 3, 32, 32))
    optimizer = Adam(model, lr=1e-4)
    step = value_and_grad(lambda: ops.mse_loss(model(x, 500), x), model)
    optimizer.step(step()[1])  # the optimizer's state exists from here on
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        optimizer.step(step()[1])
        seconds.append(time.perf_counter() - began)
    tracemalloc.start()
    optimizer.step(step()[1])
    traced = tracemalloc.get_traced_memory()[1]
    return {
        "peak of traced allocations": round(traced / 1e6, 1),
        "peak resident size": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
        "parameters": round(model.num_parameters() * 4 / 1e6, 1),
        "seconds": round(statistics.median(seconds), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Import time, installed size, memory of a training step.")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/footprint.json")
    args = parser.parse_args()
    figures: dict[str, Any] = {
        "import seconds": {name: round(import_seconds(name), 4) for name in ("numpy", "minidiff")},
        "installed MB": {name: round(installed_megabytes(name), 1) for name in DISTRIBUTIONS},
        "training step, MB": training_step(),
    }
    figures["installed MB"]["total"] = round(sum(figures["installed MB"].values()), 1)
    print(json.dumps(figures, indent=2))
    if args.save:
        print(machine.save("footprint", figures))


if __name__ == "__main__":
    main()
