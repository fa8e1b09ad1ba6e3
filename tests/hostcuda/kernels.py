"""Compiled code, which here is a note of what to compile: ours for the emulator, CuPy's own by g++, too.

CuPy's kernels include CuPy's headers as they are, less two: complex numbers and atomic operations lie in `include/`,
beside what CUDA's own headers would say of numbers of 16 bits.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidiff_cupy.nvrtc import Binary
from tests.simt.emulator import Loaded, working
from tests.simt.translation import translate

__all__ = ["Kernel", "Program", "compile", "load"]

ENTRY = "entry"  # what our kernels are called inside their code
INCLUDE = Path(__file__).parent / "include"
FLAGS = [
    *("-O0", "-g0"),  # to compile them takes longer than to run them
    *("-fvisibility=hidden", "-ffp-contract=fast", "-I."),
]


@dataclass(frozen=True)
class Kernel:
    """A kernel that can run.

    Attributes
    ----------
    name : str
    loaded : Loaded
    together : bool
        Whether its threads need each other; if not, one does the work of all.
    """

    name: str
    loaded: Loaded
    together: bool


# --- compiling: what CUDA's compiler would make of source ------------------------------------------------


def compile(file: str, names: Sequence[str], target: str, options: Sequence[str] = ()) -> Binary:
    """In the place of `minidiff_cupy.nvrtc.compile`."""
    (name,) = names
    note = {"file": file, "name": name, "options": list(options)}
    return Binary(json.dumps(note).encode(), {name: ENTRY}, log="")


class Program:
    """In the place of `cupy.cuda.compiler._NVRTCProgram`."""

    def __init__(self, source: str, *_: Any, name_expressions: Any = None, **options: Any) -> None:
        assert name_expressions is None  # none of the kernels that we call is a template
        self._source = source

    def compile(self, options: tuple[str, ...] = (), log_stream: Any = None) -> tuple[bytes, None]:
        """The code, and no other names."""
        return json.dumps({"source": self._source}).encode(), None


# --- loading ---------------------------------------------------------------------------------------------


@functools.cache
def load(code: bytes, name: str) -> Kernel:
    """The function `name` of a module's code."""
    what = json.loads(code)
    if "file" in what:
        assert name == ENTRY
        loaded = working().load(what["file"], what["name"], tuple(what["options"])).loaded
        return Kernel(f"{what['file']}, {what['name']}", loaded, together=True)
    source = what["source"]
    return Kernel(f"CuPy's {name}", _cupys(source, name), _together(source))


def _cupys(source: str, name: str) -> Loaded:
    import cupy

    ours = {str(path.relative_to(INCLUDE)): path.read_text("utf-8") for path in _files()}
    main = f'#include "cupy.hpp"\n{translate(source)}\n#include "launch.hpp"\nSIMT_EXPORT({name})\n'
    include = Path(cupy.__file__).parent / "_core" / "include"
    return Loaded({**ours, "main.cpp": main}, "main.cpp", [*FLAGS, f"-I{include}"])


@functools.cache
def _files() -> list[Path]:
    return [path for path in INCLUDE.rglob("*") if path.is_file()]


def _together(source: str) -> bool:
    """Unless it is a loop over all elements with the step of the grid, that no thread leaves."""
    return "CUPY_FOR" not in source or any(word in source for word in ("__syncthreads", "_sdata", "return;"))
