"""What loading published weights takes: time, and peak memory in copies of the weights.

    python -m benchmarks.loading [--save]

The weights are those of the U-Net of ddpm-celebahq-256, 113,673,219 numbers in float32, in one safetensors file that
the system has in its cache. Each load has a process to itself; its memory is the resident set's peak (VmHWM of Linux)
less that before the load, when everything is imported and a small model has been loaded. It is read after every weight
has been looked at once: diffusers, which loads the same folder if it is installed, leaves weights whose dtype is that
of the file mapped, so that loading itself reads nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from minidiff.models import UNet2DModel
from minidiff.models.pretrained import Unset

BLOCKS = ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"]
CONFIG: dict[str, Any] = {
    "sample_size": 256,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": BLOCKS,
    "up_block_types": [name.replace("Down", "Up") for name in BLOCKS[::-1]],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
SMALL = {**CONFIG, "block_out_channels": [32] * 6}
LOAD = """
import json, sys, time
{imports}
def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024
load = lambda folder: UNet2DModel.from_pretrained(folder{options})
load(sys.argv[1])
before, began = resident("VmRSS"), time.perf_counter()
model = load(sys.argv[2])
loaded = time.perf_counter() - began
for weight in {weights}:
    weight.max()
print(json.dumps([loaded, time.perf_counter() - began, before, resident("VmHWM")]))
"""
MINIDIFF = {
    "imports": "from minidiff.models import UNet2DModel",
    "weights": "model.state_dict().values()",
}
DIFFUSERS = {"imports": "import torch\nfrom diffusers import UNet2DModel", "weights": "model.parameters()"}
PARTIES = {
    "minidiff, float32": {**MINIDIFF, "options": ""},
    "minidiff, float16": {**MINIDIFF, "options": ", dtype='float16'"},
    "diffusers, float32": {**DIFFUSERS, "options": ""},
    "diffusers, float16": {**DIFFUSERS, "options": ", torch_dtype=torch.float16"},
}


def write(folder: Path, config: dict[str, Any]) -> int:
    """Write a model whose weights are sines; return how many numbers they are."""
    model = UNet2DModel(**config, rng=Unset("cpu", numbers=2**30, draws=2**20))
    wave = 0.02 * np.sin(np.arange(1009, dtype=np.float32))
    for parameter in model.parameters().values():
        parameter.data = np.resize(wave, parameter.shape)
    model.save_pretrained(folder)
    return model.num_parameters()


def measure(party: str, small: Path, folder: Path, runs: int) -> dict[str, Any]:
    """Median time and peak of some loads, each in a process of its own; memory in MB."""
    command = [sys.executable, "-c", LOAD.format(**PARTIES[party]), str(small), str(folder)]
    loads = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    loaded, read, before, peak = (statistics.median(values) for values in zip(*loads, strict=True))
    file = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {
        "seconds to load": round(loaded, 3),
        "seconds to load and to look at every weight once": round(read, 3),
        "of each run": [[round(load[0], 3), round(load[1], 3)] for load in loads],
        "resident before, MB": round(before / 1e6, 1),
        "peak less that, MB": round((peak - before) / 1e6, 1),
        "peak less that, copies of the file": round((peak - before) / file, 3),
    }


def versions() -> dict[str, str]:
    """Of what diffusers loads with; accelerate spares it a copy."""
    names = ("torch", "diffusers", "safetensors", "accelerate")
    return {name: metadata.version(name) if importlib.util.find_spec(name) else "none" for name in names}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time and peak memory of loading 455 MB of weights.")
    parser.add_argument("--runs", type=int, default=3, help="of each load (default: %(default)s)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/loading.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        small, folder = Path(parent) / "small", Path(parent) / "large"
        write(small, SMALL)
        figures: dict[str, Any] = {"parameters": write(folder, CONFIG), "versions": versions()}
        figures["MB"] = round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6, 1)
        for party in PARTIES:
            if not party.startswith("diffusers") or importlib.util.find_spec("diffusers"):
                figures[party] = measure(party, small, folder, args.runs)
    print(json.dumps(figures, indent=2))
    if args.save:
        print(machine.save("loading", figures))


if __name__ == "__main__":
    main()
