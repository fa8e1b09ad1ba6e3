"""What a figure was measured on."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from minidiff.files import atomic_path

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Processor, cores, versions and date; of BLAS also the kernels in use, and the variable that forced them."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    kernels = {lib["architecture"] for lib in threadpool_info() if "architecture" in lib}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": " ".join([str(blas.get("name")), str(blas.get("version")), *sorted(kernels)]),
        "forced": " ".join(f"{k}={v}" for k, v in os.environ.items() if k == "OPENBLAS_CORETYPE"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write figures and the machine to results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    with atomic_path(path) as unfinished:
        unfinished.write_text(
            json.dumps({**figures, "machine": describe()}, indent=2) + "\n", encoding="utf-8"
        )
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
