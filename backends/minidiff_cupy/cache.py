"""Where compiled kernels are kept: in CuPy's own folder, beside CuPy's."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["folder", "write"]


def folder() -> Path:
    """CuPy's folder for compiled kernels, made if it is missing."""
    path = Path(os.environ.get("CUPY_CACHE_DIR", Path.home() / ".cupy" / "kernel_cache"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, content: bytes) -> None:
    """At once or not at all, since another process may read it."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # other users may not read tempfile's
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
