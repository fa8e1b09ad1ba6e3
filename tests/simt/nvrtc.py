"""Registers and spills of every kernel, without a GPU: `python -m tests.simt.nvrtc all` or a topic.

`instantiations/<topic>.py` lists the kernels that a topic uses, and `budgets/<topic>.json` the most that each
may use on each architecture: registers, bytes spilled. `--write` writes down what is used now. Exit 1 if a
kernel uses more, has no budget, does not compile, or if the assembler had to serialize wgmma.

Every kernel is compiled for every architecture that it is used on and that the installed NVRTC knows, one by one:
the assembler takes nearly all of the time, so that all kernels of a file at once would be no faster.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from minidiff_cupy import nvrtc

HERE = Path(__file__).parent
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100")

Budget = dict[str, dict[str, list[int]]]  # [kernel][target] -> registers, bytes spilled


@dataclass(frozen=True)
class Instance:
    """A kernel to be compiled; `targets` is where it is used, by default everywhere."""

    file: str
    name: str
    options: tuple[str, ...] = ()
    targets: tuple[str, ...] = TARGETS

    def __str__(self) -> str:
        return " ".join((self.file, self.name, *self.options))


def topics() -> list[str]:
    """All topics that list instances."""
    return sorted(path.stem for path in (HERE / "instantiations").glob("*.py") if path.stem != "__init__")


def instances(topic: str) -> list[Instance]:
    """What `instantiations/<topic>.py` lists."""
    module = importlib.import_module(f"tests.simt.instantiations.{topic}")
    return [Instance(*row) for row in module.INSTANTIATIONS]


def work(topic: str) -> Iterator[tuple[Instance, str]]:
    """What to compile, and for what."""
    for instance in instances(topic):
        yield from ((instance, target) for target in known_targets() if target in instance.targets)


def known_targets() -> list[str]:
    """The targets that the installed NVRTC compiles for."""
    known = nvrtc.architectures()
    return [t for t in TARGETS if int(t.removeprefix("sm_").removesuffix("a")) in known]


def measure(instance: Instance, target: str) -> tuple[list[int], bool] | str:
    """Registers and bytes spilled, and whether wgmma was serialized; or why NVRTC refuses the kernel."""
    options = (*instance.options, "--ptxas-options=-v")
    try:
        log = nvrtc.compile(instance.file, [instance.name], target, options).log
    except nvrtc.CompilationError as error:
        return str(error)
    registers = max(map(int, re.findall(r"Used (\d+) registers", log)))
    spills = sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", log)))
    return [registers, spills], "serializ" in log


def check(topic: str, used: Budget) -> Iterator[str]:
    """Compile all of a topic, write into `used` what it uses, and yield what is wrong with it."""
    path = HERE / "budgets" / f"{topic}.json"
    budget: Budget = json.loads(path.read_text()) if path.exists() else {}
    pairs = list(work(topic))
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
        measured = pool.map(measure, *zip(*pairs, strict=True))
        for (instance, target), result in zip(pairs, measured, strict=True):
            if isinstance(result, str):
                yield result
                continue
            figures, serialized = result
            used.setdefault(str(instance), {})[target] = figures
            most = budget.get(str(instance), {}).get(target)
            if serialized:
                yield f"{instance}, {target}: the assembler serialized wgmma"
            if most is None:
                yield f"{instance}, {target}: no budget"
            elif any(f > m for f, m in zip(figures, most, strict=True)):
                yield f"{instance}, {target}: uses [registers, bytes spilled] {figures}, above {most}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check topics, print what is wrong, and return 1 if something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.simt.nvrtc", description=__doc__)
    parser.add_argument("topic", nargs="+", choices=["all", *topics()])
    parser.add_argument("--write", action="store_true", help="write the budgets instead of checking them")
    asked = parser.parse_args(arguments)
    wrong = 0
    for topic in topics() if "all" in asked.topic else asked.topic:
        start, used = time.monotonic(), Budget()
        complaints = list(check(topic, used))
        if asked.write:
            lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in used.items()]
            (HERE / "budgets" / f"{topic}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
            complaints = [c for c in complaints if not re.search(r": (no budget|uses \[)", c)]
        most = max((f for row in used.values() for f in row.values()), default=[0, 0])
        seconds = time.monotonic() - start
        print(
            f"{topic}: {len(used)} kernels in {seconds:.0f} s, up to {most[0]} registers, {len(complaints)} complaints"
        )
        print("".join(f"  {c}\n" for c in complaints[:50]), end="", flush=True)
        wrong += len(complaints)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
