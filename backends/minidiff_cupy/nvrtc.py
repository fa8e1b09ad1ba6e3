"""Kernels compiled by NVRTC, which needs neither a driver nor a GPU.

`cupy.RawModule` would compile them too, but always for the plain architecture, without Hopper's own instructions
(sm_90a), and it would flush denormal numbers to zero. What is made here is what CI measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minidiff_cupy import sources

__all__ = ["Binary", "CompilationError", "architectures", "compile", "target", "version"]

_OPTIONS = ("-std=c++17", "-default-device")


class CompilationError(RuntimeError):
    """NVRTC refused a kernel; the message holds its log."""


@dataclass(frozen=True)
class Binary:
    """What NVRTC made.

    Attributes
    ----------
    code : bytes
        A cubin, or PTX for a GPU that is newer than NVRTC.
    names : dict of str to str
        The name inside `code` of each kernel.
    log : str
        What NVRTC and its assembler said.
    """

    code: bytes
    names: dict[str, str]
    log: str


def version() -> tuple[int, int]:
    """Of NVRTC: (12, 9)."""
    from cupy.cuda import nvrtc

    major, minor = nvrtc.getVersion()
    return int(major), int(minor)


def architectures() -> tuple[int, ...]:
    """The compute capabilities that NVRTC compiles for: 75 for 7.5."""
    from cupy.cuda import nvrtc

    return tuple(nvrtc.getSupportedArchs())


def target(capability: int, known: Iterable[int]) -> str:
    """What to compile for: "sm_86" for a GPU of capability 8.6, "sm_90a" for 9.0 with the instructions it alone has.

    A GPU runs the code of an earlier one of its own generation. The driver translates PTX ("compute_90") for a
    generation that NVRTC does not know.
    """
    best = max(a for a in known if a <= capability)
    if best == 90 == capability:
        return "sm_90a"
    return f"sm_{best}" if best // 10 == capability // 10 else f"compute_{best}"


def compile(
    file: str,
    names: Sequence[str],
    target: str,
    options: Sequence[str] = (),
    folder: Path = sources.FOLDER,
) -> Binary:
    """Compile kernels of one file.

    Parameters
    ----------
    file : str
        In `folder`.
    names : sequence of str
        Instances: "statistics<half, 8>".
    target : str
        What `target` returns.
    options : sequence of str
        Further options of NVRTC.
    folder : Path
        Where the file and its headers are.

    Raises
    ------
    CompilationError
        With NVRTC's log.
    """
    from cupy.cuda import nvrtc

    texts = dict(sources.read(file, folder))
    main = texts.pop(file)
    headers = [tuple(text.encode() for text in part) for part in (texts.values(), texts)]
    program = nvrtc.createProgram(main, file, *headers)
    try:
        for name in names:
            nvrtc.addNameExpression(program, name)
        nvrtc.compileProgram(program, (f"-arch={target}", *_OPTIONS, *options))
        code = nvrtc.getPTX(program) if target.startswith("compute") else nvrtc.getCUBIN(program)
        lowered = {name: str(nvrtc.getLoweredName(program, name)) for name in names}
        return Binary(code, lowered, nvrtc.getProgramLog(program))
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        wanted = ", ".join(names)
        raise CompilationError(
            f"{file}: NVRTC cannot compile {wanted} for {target} ({error})\n{log}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)
