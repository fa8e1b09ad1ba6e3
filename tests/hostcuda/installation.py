"""Puts it all in its place, once for a process, before CuPy is imported."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
from typing import Any

__all__ = ["VERSION", "install"]

VERSION = "14.2.0"  # of CuPy, whose inside is relied upon
PACKAGES = ("cupy-cuda12x", "cupy-cuda13x")

_folders: list[Any] = []  # which live as long as this process


def install() -> None:
    """Let CuPy, which is imported here, run over host memory.

    Raises
    ------
    SystemExit
        If CuPy is not the one that this is made for, or was imported before.
    """
    _require()
    folder = tempfile.TemporaryDirectory(prefix="minidiff-hostcuda-")
    _folders.append(folder)
    os.environ["CUPY_CACHE_DIR"] = folder.name  # notes instead of machine code are no other CuPy's business
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's kernels are too much for g++
    _replace_runtime()
    import cupy

    _replace_compilers()
    from tests.hostcuda import libraries

    libraries.replace(cupy)
    import minidiff_cupy

    minidiff_cupy.backend()  # which says what is missing, where tests would be skipped


def _require() -> None:
    versions = {package: _version(package) for package in PACKAGES}
    if VERSION not in versions.values():
        found = ", ".join(
            f"{package} is {version or 'not installed'}" for package, version in versions.items()
        )
        raise SystemExit(
            f"tests.hostcuda replaces functions inside CuPy {VERSION}, and {found}; "
            f"install it with: pip install cupy-cuda12x=={VERSION} nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12"
        )
    if "cupy" in sys.modules:
        raise SystemExit("tests.hostcuda must be there before CuPy is imported: python -m tests.hostcuda")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _replace_runtime() -> None:
    from cupy_backends.cuda.api import driver, runtime  # not yet those who call them

    from tests.hostcuda import capsules, device, launches, streams, transfers

    capsules.replace(runtime, device.FUNCTIONS | streams.FUNCTIONS | transfers.FUNCTIONS)
    capsules.replace(driver, launches.FUNCTIONS)


def _replace_compilers() -> None:
    from cupy.cuda import compiler

    from minidiff_cupy import diagnosis, nvrtc
    from tests.hostcuda import device, kernels

    compiler._NVRTCProgram = kernels.Program
    nvrtc.compile = kernels.compile
    diagnosis.driver_version = lambda: device.DRIVER  # which it asks the driver's own library
