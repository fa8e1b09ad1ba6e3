"""The computer: Python, packages, processor, memory."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from minidiff.backend import BackendUnavailable
from minidiff.doctor.findings import Questions

__all__ = ["QUESTIONS"]

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # a container's own limits
CONTAINER = ("/.dockerenv", "/run/.containerenv")  # Docker's mark, Podman's mark


def _python() -> str:
    return f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"


def _platform() -> str:
    return platform.platform() + (", in a container" if any(map(os.path.exists, CONTAINER)) else "")


def _packages() -> str:
    """The versions of what minidiff needs."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        needed = [line for line in requires("minidiff") or () if "extra ==" not in line]
    except PackageNotFoundError as error:
        raise BackendUnavailable(
            "minidiff is not installed, so that it finds no backend",
            "pip install ., in the folder of minidiff",
        ) from error
    found, missing = [], []
    for name in (re.split(r"[^\w.-]", line)[0] for line in needed):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise BackendUnavailable(f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return ", ".join([f"minidiff {version('minidiff')}", *found])


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    named = (
        re.search(r"model name\s*: (.*)", CPUINFO.read_text(encoding="utf-8")) if CPUINFO.exists() else None
    )
    return (
        f"{named[1] if named else platform.processor() or platform.machine()}, {cores} cores for this process"
    )


def _memory() -> str:
    """What is free, of the computer or below the container's limit."""
    if not MEMINFO.exists():
        return "not known on this system"
    sizes = {
        k: int(v) * 1024 for k, v in re.findall(r"(\w+):\s+(\d+) kB", MEMINFO.read_text(encoding="utf-8"))
    }
    free, total = sizes["MemAvailable"], sizes["MemTotal"]
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None and limit < total:
        return f"{_gib(min(free, limit - used))} free of {_gib(limit)} that the container may use"
    return f"{_gib(free)} free of {_gib(total)}"


def _number(path: Path) -> int | None:
    text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


QUESTIONS: Questions = {
    "Python": _python,
    "platform": _platform,
    "packages": _packages,
    "processor": _processor,
    "memory": _memory,
}
