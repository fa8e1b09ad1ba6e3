"""Compiles kernels with g++ for the emulator in `runtime/`, and launches them with every check that a GPU omits.

Compiled kernels are kept in a folder for temporary files, under a name made from all that went into them, until
they have not been used for two weeks, or others that were used later fill the folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.backend import BackendUnavailable
from minidiff_cupy import sources
from tests.simt.arrays import SimtArray
from tests.simt.translation import translate

__all__ = ["SCHEDULES", "Emulator", "EmulatorError", "Loaded", "build", "device", "schedule", "working"]

RUNTIME = Path(__file__).parent / "runtime"
SCHEDULES = ("forward", "reverse", "adversarial")
FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-w", "-fPIC", "-fno-strict-aliasing"),
    "-fno-gnu-unique",  # each library has its own shared memory, also of templates with the same name
    "-fexpensive-optimizations",  # without it -O1 fuses no products with sums
]
CHECKS = "-fsanitize=alignment,bounds,null,shift,integer-divide-by-zero,signed-integer-overflow"  # runtime/checks.hpp
KEPT_SECONDS, KEPT_BYTES = 14 * 86400, 1 << 30  # compiled kernels
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
MAX_SHARED = 227 * 1024


class EmulatorError(RuntimeError):
    """A kernel did what a GPU would answer with an error, a wrong result or silence."""


class Emulator:
    """An engine of `minidiff_cupy.engine` for arrays of type `SimtArray`."""

    def __init__(self, folder: Path = sources.FOLDER) -> None:
        self.schedule = "forward"
        self.device = {"capability": 80, "multiprocessors": 2}
        self.folder = folder
        self.launched: set[tuple[str, str]] = set()
        self._kernels: dict[Any, _Kernel] = {}

    def load(self, file: str, name: str, options: tuple[str, ...]) -> _Kernel:
        """See `minidiff_cupy.engine.load`."""
        key = self.folder, file, name, options
        if key not in self._kernels:
            self._kernels[key] = _Kernel(self, file, name, options)
        return self._kernels[key]

    def multiprocessors(self) -> int:
        """What `device` says."""
        return self.device["multiprocessors"]

    def capability(self) -> int:
        """What `device` says."""
        return self.device["capability"]


_emulator = Emulator()


def working() -> Emulator:
    """The emulator.

    Raises
    ------
    BackendUnavailable
        If there is no C++ compiler.
    """
    if shutil.which(compiler()) is None:
        raise BackendUnavailable(
            f"simt: there is no C++ compiler {compiler()!r}", "install one with: apt-get install g++"
        )
    return _emulator


@contextmanager
def schedule(name: str) -> Iterator[None]:
    """In which order threads run: one of `SCHEDULES`.

    "forward" and "reverse" take the threads of a block, and the blocks, in their order, and each thread runs as
    far as it gets. "adversarial" runs one warp after another, drawn at random, as far as barriers allow.
    """
    before, _emulator.schedule = _emulator.schedule, name
    try:
        yield
    finally:
        _emulator.schedule = before


@contextmanager
def device(**values: int) -> Iterator[None]:
    """What launch code finds the device to be: `device(capability=90, multiprocessors=132)`."""
    before, _emulator.device = _emulator.device, {**_emulator.device, **values}
    try:
        yield
    finally:
        _emulator.device = before


def compiler() -> str:
    """The command of the C++ compiler."""
    return os.environ.get("CXX", "g++")


def sanitized() -> bool:
    """Whether this process runs under AddressSanitizer (see `tests.simt.asan`)."""
    return "libasan" in os.environ.get("LD_PRELOAD", "")


# --- compiling -------------------------------------------------------------------------------------------


def build(files: dict[str, str], main: str, flags: list[str]) -> ctypes.CDLL:
    """The shared library compiled from the C++ file `main`, which includes other `files`, and the runtime."""
    margins = ["-fsanitize=address"] if sanitized() else []
    flags = [*FLAGS, *flags, *_machine_flags(), *margins]
    identity = [
        compiler(),
        *flags,
        *(f"{name}\n{text}" for name, text in sorted((files | _runtime()).items())),
    ]
    key = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    library = _cache() / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as work:
            for name, text in files.items():
                Path(work, name).parent.mkdir(exist_ok=True)
                Path(work, name).write_text(text, encoding="utf-8")
            compiled = [compiler(), *flags, "-I", str(RUNTIME), "-x", "c++", "-c", main, "-o", "made.o"]
            linked = [compiler(), *margins, "-shared", "made.o", "-o", "made.so"]
            for command in (compiled, linked):
                done = subprocess.run(command, cwd=work, capture_output=True, text=True)
                if done.returncode:
                    raise EmulatorError(f"{main}: {compiler()} failed\n{done.stderr[:6000]}")
            Path(work, "made.so").replace(library)
    os.utime(library)  # used now
    return ctypes.CDLL(str(library))


@functools.cache
def _runtime() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in RUNTIME.iterdir()}


@functools.cache
def _machine_flags() -> list[str]:
    """Let products be fused with sums, as on the GPU, where this processor can (every aarch64 can)."""
    info = Path("/proc/cpuinfo")
    return ["-mfma"] if info.exists() and " fma " in info.read_text() else []


@functools.cache
def _cache() -> Path:
    folder = Path(tempfile.gettempdir(), f"minidiff-simt-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    prune(folder)
    return folder


def prune(folder: Path) -> None:
    """Remove the libraries that were not used for long, and the longest unused ones of too many."""
    with suppress(FileNotFoundError):  # another process does it
        libraries = [(path.stat(), path) for path in folder.glob("*.so")]
        size = 0
        for status, path in sorted(libraries, key=lambda one: one[0].st_mtime, reverse=True):
            size += status.st_size
            if size > KEPT_BYTES or status.st_mtime < time.time() - KEPT_SECONDS:
                path.unlink()


@functools.cache
def _runtime_library() -> ctypes.CDLL:
    library = build({"main.cpp": '#include "scheduler.cpp"\n'}, "main.cpp", ["-O2"])
    ctypes.CDLL(library._name, mode=ctypes.RTLD_GLOBAL)  # kernels find the runtime's functions by name
    library.simt_launch.restype = ctypes.c_char_p
    library.simt_launch.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_size_t, ctypes.c_int, ctypes.c_uint]
    return library


# --- launching -------------------------------------------------------------------------------------------


class _Parameter(ctypes.Structure):
    _fields_ = (("type", ctypes.c_char_p), ("bytes", ctypes.c_int))


class Loaded:
    """A compiled kernel, without the checks of a launch.

    Attributes
    ----------
    parameters : list of (str, int)
        Types, as `runtime/launch.hpp` calls them, and sizes in bytes.
    """

    def __init__(self, files: dict[str, str], main: str, flags: list[str]) -> None:
        _runtime_library()
        library = build(files, main, flags)
        library.simt_parameters.restype = ctypes.POINTER(_Parameter)
        self._call = ctypes.cast(library.simt_call, ctypes.c_void_p)
        self.parameters: list[tuple[str, int]] = []
        for p in library.simt_parameters():
            if p.type is None:
                break
            self.parameters.append((p.type.decode(), p.bytes))

    def run(self, grid: Any, block: Any, pointers: Any, shared_mem: int, schedule: str) -> str:
        """Call it with ctypes' arrays, two of three sizes and one of addresses. What went wrong, or ""."""
        order = SCHEDULES.index(schedule)
        error = _runtime_library().simt_launch(self._call, pointers, grid, block, shared_mem, order, 1)
        return error.decode() if error else ""


class _Kernel:
    def __init__(self, emulator: Emulator, file: str, name: str, options: tuple[str, ...]) -> None:
        self.emulator, self.file, self.name, self.options = emulator, file, name, options
        texts = {key: translate(text) for key, text in sources.read(file, emulator.folder).items()}
        texts["main.cpp"] = (
            f'#include "cuda.hpp"\n#include "{file}"\n#include "launch.hpp"\nSIMT_EXPORT({name})\n'
        )
        flags = [o for o in options if o.startswith("-D")]
        flags += ["-ffp-contract=off" if "--fmad=false" in options else "-ffp-contract=fast"]
        self.loaded = Loaded(texts, "main.cpp", ["-fvisibility=hidden", CHECKS, *flags])
        self.parameters = self.loaded.parameters

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, shared_mem: int = 0) -> None:
        """Run it; see `minidiff_cupy.engine.load`."""
        sizes = [self._size("grid", grid, MAX_GRID), self._size("block", block, MAX_BLOCK)]
        if np.prod(block, dtype=object) > 1024:
            raise EmulatorError(f"{self}: a block of {block} threads; 1024 is the most")
        if not 0 <= shared_mem <= MAX_SHARED:
            raise EmulatorError(
                f"{self}: {shared_mem} bytes of dynamic shared memory; {MAX_SHARED} is the most"
            )
        if len(args) != len(self.parameters):
            raise EmulatorError(f"{self}: {len(args)} arguments for {len(self.parameters)} parameters")
        held = [self._value(i, a) for i, a in enumerate(args)]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(h) for h in held))
        self.emulator.launched.add((self.file, self.name))
        error = self.loaded.run(*sizes, pointers, shared_mem, self.emulator.schedule)
        if error:
            raise EmulatorError(f"{self}: {error}")

    def __str__(self) -> str:
        return f"{self.file}, {self.name}"

    def _size(self, what: str, size: tuple[int, ...], most: tuple[int, ...]) -> Any:
        full = (*size, 1, 1, 1)[:3]
        fits = len(size) <= 3 and all(type(n) is int and 0 < n <= m for n, m in zip(full, most, strict=True))
        if not fits:
            raise EmulatorError(f"{self}: a {what} of {size}; each must be an int from 1 to {most}")
        return (ctypes.c_uint * 3)(*full)

    def _value(self, position: int, value: Any) -> Any:
        """The bytes that the kernel gets for an argument, as a ctypes object."""
        type_, size = self.parameters[position]
        if type_.endswith("*") and (value is None or isinstance(value, SimtArray)):
            if value is not None and type_ not in ("*", f"{value.dtype.name}*"):
                raise EmulatorError(
                    f"{self}: argument {position} is {value.dtype.name}, the parameter {type_}"
                )
            return ctypes.c_void_p(None if value is None else value.ctypes.data)
        if isinstance(value, np.generic) and not type_.endswith("*"):
            if value.nbytes != size or type_ not in ("", value.dtype.name):
                raise EmulatorError(
                    f"{self}: argument {position} is {value.dtype.name} of {value.nbytes} bytes, "
                    f"the parameter {type_ or 'a struct'} of {size}"
                )
            return (ctypes.c_ubyte * size).from_buffer_copy(value.tobytes())
        raise EmulatorError(
            f"{self}: argument {position} is a {type(value).__name__}, the parameter {type_!r}"
        )
