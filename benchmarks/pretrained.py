"""A published network in minidiff beside diffusers on PyTorch: DDIM with the U-Net of google/ddpm-cifar10-32.

    python -m benchmarks.pretrained [--quick] [--save]

35,746,307 parameters, 32x32 pixels, 50 steps. Both read one folder, whose weights are random (the last layer's divided
by 100, or the loop would amplify rounding a millionfold), begin with the same noise, use the same number of threads,
take turns in one process, and must end with the same images. Memory is measured in a fresh process for each: imports,
loading, drawing. Installed is what `pip install` brings, dependencies included; PyTorch is the build for CPUs, a
tenth of that for CUDA. Ratios are minidiff's figure divided by the other's: below 1 minidiff is faster or smaller.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import minidiff_numpy
from benchmarks import machine
from benchmarks.footprint import installed_megabytes
from benchmarks.interleave import Disagreement, Work, interleave
from minidiff import Generator
from minidiff.backend import Array
from minidiff.diffusion import DDIM
from minidiff.models import UNet2DModel
from minidiff.pipelines import Pipeline, generate, load_pipeline, save_pipeline

CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
OUR_PACKAGES = ("minidiff", "minidiff_numpy", "minidiff_cupy")
STATUS = Path("/proc/self/status")
Draw = Callable[[Array, int], Any]  # (noise, steps) -> images


def write_folder(folder: str) -> None:
    """The pipeline that both read."""
    model = UNet2DModel(**CONFIG)
    model.conv_out.weight.data = model.conv_out.weight.data / 100
    save_pipeline(Pipeline(model, DDIM()), folder)


def ours(folder: str, threads: int) -> Draw:
    """The pipeline of minidiff."""
    minidiff_numpy.set_num_threads(threads)
    pipeline = load_pipeline(folder)
    return lambda noise, steps: generate(
        pipeline, len(noise), noise=noise, steps=steps, generator=Generator(0)
    )


def theirs(folder: str, threads: int) -> Draw:
    """What the pipeline of diffusers does, from given noise."""
    torch, diffusers = import_module("torch"), import_module("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet", local_files_only=True)
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)

    def draw(noise: Array, steps: int) -> Any:
        x = torch.from_numpy(noise)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                x = scheduler.step(unet(x, t).sample, t, x).prev_sample
            return x.clamp(-1, 1).numpy()

    return draw


PARTIES: dict[str, Callable[[str, int], Draw]] = {"minidiff": ours, "diffusers": theirs}


def measure_time(folder: str, threads: int, batches: Sequence[int], steps: int) -> dict[str, Any]:
    """The loop, in turns."""
    parties = {name: make(folder, threads) for name, make in PARTIES.items()}
    rows = {}
    for batch in batches:
        noise = np.ascontiguousarray(Generator(1).normal((batch, 3, 32, 32)))
        works = {name: [Work(partial(draw, noise, steps))] for name, draw in parties.items()}
        (comparison,) = interleave(f"batch {batch}", works, rounds=3, least=0.1)
        rows[f"batch {batch}"] = comparison.describe()
        ratio = comparison.ratio("diffusers")
        print(
            f"batch {batch}: "
            + ", ".join(f"{name} {comparison.milliseconds(name) / 1e3:.2f} s" for name in works),
            f"ratio {ratio['median']:.2f} ({ratio['lower quartile']:.2f} to {ratio['upper quartile']:.2f}), "
            f"largest difference {comparison.errors['diffusers']:.1e}",
            flush=True,
        )
    return rows


def measure_memory(folder: str, threads: int, batch: int) -> dict[str, Any]:
    """Peak resident size of a process that imports, loads and draws; three steps show it, as all are alike."""
    if not STATUS.exists():
        print("memory: left out, since it is read from Linux's /proc")
        return {}
    rows = {}
    for name in PARTIES:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows[name] = process.submit(resident, name, folder, threads, batch).result()
        print(f"memory, batch {batch}: {name} {rows[name]} MB", flush=True)
    ratio = rows["minidiff"]["peak"] / rows["diffusers"]["peak"]
    return {"batch": batch, "MB": rows, "ratio": round(ratio, 3)}


def resident(party: str, folder: str, threads: int, batch: int) -> dict[str, float]:
    """Resident size of this process in MB: with the network loaded, and at its peak."""
    draw = PARTIES[party](folder, threads)
    loaded = _status("VmRSS")
    draw(np.ascontiguousarray(Generator(1).normal((batch, 3, 32, 32))), 3)
    return {"loaded": round(loaded, 1), "peak": round(_status("VmHWM"), 1)}


def _status(name: str) -> float:
    """A size that Linux reports, in MB."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def measure_installed() -> dict[str, Any]:
    """Megabytes on disk, of each distribution and in all."""
    needed = {"minidiff": needs("minidiff"), "diffusers": needs("diffusers") | needs("torch")}
    rows = {}
    for name, distributions in needed.items():
        sizes = {d: round(installed_megabytes(d), 1) for d in sorted(distributions)}
        if name == "minidiff":
            sizes[name] = round(
                sum(map(package_megabytes, OUR_PACKAGES)), 1
            )  # an editable one has no files here
        rows[name] = {"total": round(sum(sizes.values()), 1), **sizes}
        print(f"installed: {name} {rows[name]['total']} MB in {len(sizes)} distributions")
    return {"MB": rows, "ratio": round(rows["minidiff"]["total"] / rows["diffusers"]["total"], 3)}


def package_megabytes(package: str) -> float:
    """The size on disk of a package's files, compiled bytecode left out."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]
    paths = [p for folder in folders for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    return sum(p.stat().st_size for p in paths) / 1e6


def needs(distribution: str) -> set[str]:
    """A distribution and all that it requires here, without extras."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    waiting: list[str] = [canonicalize_name(distribution)]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def measure(folder: str, threads: int, *, quick: bool) -> dict[str, Any]:
    """All figures."""
    steps = 3 if quick else 50
    return {
        "network": "google/ddpm-cifar10-32's configuration, 35,746,307 parameters, float32",
        "sampler": f"DDIM, {steps} steps",
        "threads": threads,
        **{name: importlib.metadata.version(name) for name in ("torch", "diffusers")},
        "time": measure_time(folder, threads, (1,) if quick else (1, 4), steps),
        "memory": [measure_memory(folder, threads, batch) for batch in (1, 4)],
        "installed": measure_installed(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="3 steps, for a first look")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/pretrained.json")
    cores = machine.describe()["cores"]
    parser.add_argument("--threads", type=int, default=cores, help="default: all cores")
    args = parser.parse_args(arguments)
    if args.save and args.quick:
        parser.error("--save needs all steps: leave out --quick")
    missing = [name for name in ("torch", "diffusers", "packaging") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f'error: {", ".join(missing)} missing; run {sys.executable} -m pip install ".[interop,bench]"',
            file=sys.stderr,
        )
        return 1
    with tempfile.TemporaryDirectory() as parent:
        folder = str(Path(parent) / "pipeline")
        write_folder(folder)
        try:
            figures = measure(folder, args.threads, quick=args.quick)
        except Disagreement as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(json.dumps(machine.describe()))
    if args.save:
        print(machine.save("pretrained", figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
