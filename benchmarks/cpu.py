"""minidiff on the CPU beside PyTorch eager: the same network, weights, inputs and number of threads, in one process.

    python -m benchmarks.cpu [--quick] [--save [NAME]] [--only SECTION,...] [--threads N]

The parties are minidiff, PyTorch (contiguous NCHW memory, Adam with its defaults) and PyTorch in channels_last
memory with fused Adam. They take turns, after all have computed the same; see `benchmarks.interleave`. A ratio
is minidiff's time divided by the other's, so that below 1 minidiff is faster. The sections:

ops      every op of UNet(3, 64, 3), batch 16, 32x32 pixels, at its shapes: forward, and gradients of all arrays
forward  the network's forward, inside minidiff.inference() and torch.inference_mode()
step     a training step: forward, mean squared error, backward, Adam; and what autodiff costs
ddim     drawing images with DDIM, 50 steps; and what Python costs
memory   how far a training step raises the resident size of a fresh process (Linux only)
growth   how the time of the forward grows with batch, side and threads; --save draws it
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.cpu_sections import SECTIONS, Plan
from benchmarks.interleave import Disagreement
from benchmarks.plot import draw

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def measure(plan: Plan, sections: Sequence[str] = tuple(SECTIONS)) -> dict[str, Any]:
    """Measure and print the sections; all figures by section.

    Raises
    ------
    Disagreement
        If the parties do not compute the same.
    """
    torch = importlib.metadata.version("torch")
    print(
        f"UNet(3, {plan.channels}, 3), threads {plan.threads}, PyTorch {torch}; ratios of minidiff's time to others',\n"
        "medians and quartiles of rounds: below 1 minidiff is faster"
    )
    figures = {name: SECTIONS[name](plan) for name in sections}
    here = machine.describe()
    print(f"{here['processor']}, {here['blas']}")
    if forced := here["forced"]:
        print(f"note: {forced} binds NumPy's BLAS, not PyTorch; unset it to compare what a user would see")
    settings = {"network": f"UNet(3, {plan.channels}, 3)", "threads": plan.threads, "torch": torch}
    return {**settings, **figures}


def _sections(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"at least 1 thread is needed, got {text}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, rounds and DDIM steps")
    parser.add_argument(
        "--save",
        metavar="NAME",
        nargs="?",
        const="cpu",
        help="write benchmarks/results/NAME.json and, of the growth, docs/pictures/NAME.png (NAME: cpu)",
    )
    parser.add_argument("--only", type=_sections, metavar="SECTION,...", help="some sections and not all")
    parser.add_argument(
        "--threads",
        type=_threads,
        metavar="N",
        default=machine.describe()["cores"],
        help="default: all cores",
    )
    args = parser.parse_args(arguments)
    if args.save == "cpu" and (args.only or args.quick):
        parser.error("--save needs all sections in full: leave out --only and --quick, or give another NAME")
    needed = ("torch", "matplotlib") if args.save else ("torch",)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        install = f'{sys.executable} -m pip install ".[bench]"'
        print(
            f"error: {' and '.join(missing)} missing; in the project's folder, run {install}", file=sys.stderr
        )
        return 1
    plan = Plan(threads=args.threads)
    try:
        figures = measure(plan.quick() if args.quick else plan, args.only or list(SECTIONS))
    except Disagreement as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; what stands above was measured, and nothing was saved", file=sys.stderr)
        return 130
    if args.save:
        if "growth" in figures:
            draw(figures["growth"], PICTURES / f"{args.save}.png")
        print(machine.save(args.save, figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
