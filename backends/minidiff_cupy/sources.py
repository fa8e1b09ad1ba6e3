"""Kernels are files: a `.cu` file, and the `.cuh` headers beside it that it includes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

__all__ = ["FOLDER", "read"]

FOLDER = Path(__file__).parent / "kernels"

_INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)


@cache
def read(file: str, folder: Path = FOLDER) -> dict[str, str]:
    """The text of `file` and of every header that it includes, also through another header, by name."""
    texts: dict[str, str] = {}
    wanted = [file]
    while wanted:
        name = wanted.pop()
        if name not in texts:
            texts[name] = (folder / name).read_text(encoding="utf-8")
            wanted += _INCLUDE.findall(texts[name])
    return texts
