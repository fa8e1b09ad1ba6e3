"""minidiff's CUDA kernels on the GPU at hand, checked first, then timed beside PyTorch and what the GPU can do.

    python -m benchmarks.gpu [--quick] [--save [NAME]] [--only SECTION,...] [--seed N]

What stands in benchmarks/results/gpu-*.json was measured; as long as no such file is committed, nothing here has run
on a GPU, and only the emulator of the tests vouches for the kernels.

The parties are minidiff, minidiff with captured steps (CUDA graphs), PyTorch eager (NCHW, Adam with its defaults),
PyTorch in channels_last memory with fused Adam, and what torch.compile makes of the latter. PyTorch may use TF32 for
float32, as minidiff does, and cuDNN may try its algorithms. They compute the same first, then take turns; times are
those between CUDA events on one stream, medians of rounds with their quartiles; inputs are rotated so that they come
from memory, not from the L2 cache. A speed is PyTorch's time divided by minidiff's: above 1 minidiff is faster.
Without PyTorch minidiff is measured alone. The sections:

check        every kernel against the generic rule in float64 on fresh random inputs; noise and images against the CPU
ceilings     a large copy, and a large product by our kernels and by cuBLAS: what shares of them are printed below
group_norm   GroupNorm with SiLU, forward and backward
convolution  large ones, and those of UNet(3, 64, 3) on 32x32 images
attention    forward and backward
adam         a step for all parameters of the U-Net
sampling     drawing images with DDIM
step         a training step: forward, mean squared error, backward, Adam
forward      the network's forward
memory       of a training step, predicted and measured
compiled     steps and forwards beside those of torch.compile, default and max-autotune

Everything is over within 8 minutes: each section has its part of the time, and says what it left out. Clocks and
power of the GPU are left as they are. The exit code is 1 if a check failed, and 2 without CuPy or a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import re
import secrets
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.gpu_bench import Bench, Plan
from benchmarks.gpu_device import CudaDevice, Device
from benchmarks.gpu_sections import SECTIONS
from benchmarks.gpu_timing import Budget
from minidiff.backend import BackendUnavailable
from minidiff.files import atomic_path

FULL = "all"  # stands for the name of the results of a full run


def measure(bench: Bench, sections: Sequence[str], path: Path | None = None) -> dict[str, Any]:
    """Measure and print the sections, and save after each, if there is a path; returns all figures by section."""
    about = _about(bench)
    for name, value in about.items():
        bench.say(f"{name:<20}{value}")
    figures: dict[str, Any] = {**about, "host": machine.describe(), "plan": vars(bench.plan)}
    with bench.device.one_stream(), _heard(bench):
        for number, name in enumerate(sections):
            section, weight = SECTIONS[name]
            bench.budget.share(weight / sum(SECTIONS[other][1] for other in sections[number:]))
            before = len(bench.left_out)
            bench.say(f"\n--- {name}")
            try:
                figures[name] = section(bench)
            except Exception as reason:
                bench.require(False, f"{name}: {type(reason).__name__}: {reason}")
                bench.say(traceback.format_exc())
            if not bench.answers():
                bench.require(
                    False, "the device is lost; for the sections from here on, run again with --only"
                )
                break
            bench.device.release()
            if left := bench.left_out[before:]:
                bench.say(
                    f"no time was left for {len(left)}: {'; '.join(left[:5])}{' ...' * (len(left) > 5)}"
                )
            if path is not None:
                _save(path, bench, figures)
    bench.say(f"\n{len(bench.failures)} failed, {len(bench.left_out)} left out")
    if path is not None:
        _save(path, bench, figures)
    return figures


@contextmanager
def _heard(bench: Bench) -> Iterator[None]:
    """What the backend warns of counts as a failure: a step that could not be captured, for instance."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: bench.require(False, record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("minidiff_cupy")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _about(bench: Bench) -> dict[str, Any]:
    """The device, and what PyTorch there is."""
    torch = {"torch": "left out, as it is not installed or cannot use this GPU"}
    if bench.torch is not None:
        torch = bench.torch.prepare()
    return {**bench.device.describe(), **torch, "date": machine.describe()["date"]}


def _save(path: Path, bench: Bench, figures: dict[str, Any]) -> None:
    """Write this run behind those that the file holds already, and its log."""
    path.parent.mkdir(exist_ok=True)
    history = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    earlier = [run for run in history if run["seed"] != bench.seed]
    run = {"seed": bench.seed, **figures, "failures": bench.failures, "left out": bench.left_out}
    for target, text in (
        (path, json.dumps({"runs": [*earlier, run]}, indent=1)),
        (path.with_suffix(".log"), "\n".join(bench.log)),
    ):
        with atomic_path(target) as unfinished:
            unfinished.write_text(text + "\n", encoding="utf-8")


def _torch(device: Device) -> Any:
    """`benchmarks.gpu_torch`, if PyTorch can compute on the device."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if device.torch_device == "cuda" and not torch.cuda.is_available():
        return None
    from benchmarks import gpu_torch

    return gpu_torch


def _sections(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, dtypes and rounds, in 3 minutes")
    parser.add_argument(
        "--save",
        metavar="NAME",
        nargs="?",
        const=FULL,
        help="add the run to benchmarks/results/NAME.json and write NAME.log (NAME: gpu- and the GPU's name)",
    )
    parser.add_argument("--only", type=_sections, metavar="SECTION,...", help="some sections and not all")
    parser.add_argument("--seed", type=int, metavar="N", help="of the random inputs; default: a new one")
    args = parser.parse_args(arguments)
    if args.save == FULL and (args.only or args.quick):
        parser.error("--save needs all sections in full: leave out --only and --quick, or give a NAME")
    plan = Plan().quick() if args.quick else Plan()
    budget = Budget(plan.seconds)
    try:
        device = CudaDevice()
    except BackendUnavailable as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    seed = secrets.randbits(32) if args.seed is None else args.seed
    bench = Bench(device, plan, budget, seed, _torch(device))
    path = None
    if args.save:
        name = "gpu-" + _slug(device.describe()["gpu"]) if args.save == FULL else args.save
        path = machine.RESULTS / f"{name}.json"
    try:
        measure(bench, args.only or list(SECTIONS), path)
    except KeyboardInterrupt:
        print("\nstopped; what stands above was measured", file=sys.stderr)
        return 130
    if path is not None:
        print(path)
    return 1 if bench.failures else 0


def _slug(name: str) -> str:
    """The name of a GPU as part of a file's: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
