"""What the example scripts share: arguments, the choice of a device, and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from minidiff.backend import Backend, BackendUnavailable, get_backend
from minidiff.checkpoint import CheckpointError
from minidiff.data import DataError
from minidiff.training import TrainingError

__all__ = ["UsageError", "add_arguments", "choose_device", "parse_labels", "run"]


class UsageError(ValueError):
    """An argument that makes no sense; the message says which."""


def add_arguments(parser: argparse.ArgumentParser, *, output_dir: str) -> None:
    """Add `--device`, `--seed` and `--output-dir`."""
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, or auto: a GPU if one works (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default: %(default)s)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path(output_dir), help="where files go (default: %(default)s)"
    )


def choose_device(name: str) -> Backend:
    """The backend called `name`; for "auto" a GPU if one works, else the CPU. Prints which, and why.

    Raises
    ------
    BackendUnavailable
        If a device that was named does not work: there is no silent fallback.
    UsageError
        If no backend has that name.
    """
    why = "asked for"
    if name == "auto":
        try:
            name, why = "cuda", "a GPU works"
            get_backend(name)
        except BackendUnavailable as reason:
            name, why = "cpu", f"no GPU: {reason}"
    try:
        backend = get_backend(name)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None
    print(f"device: {backend.device} ({why})")
    return backend


def parse_labels(text: str, count: int) -> list[int]:
    """ "0-9" or "3,5,7" as numbers below `count`.

    Raises
    ------
    UsageError
        If the text is something else, or a label is out of range.
    """
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise UsageError(f"labels: expected numbers and ranges such as 0-9 or 3,5,7, got {text!r}")
        labels += range(int(first), int(last if dash else first) + 1)
    for label in labels:
        if label >= count:
            raise UsageError(f"labels: {label} is outside 0 to {count - 1}")
    return labels


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit: 0 done, 1 training failed, 2 wrong input or device, 130 interrupted."""
    try:
        code = main() or 0
    except TrainingError as error:
        code = _complain(error, 1)
    except (BackendUnavailable, CheckpointError, DataError, UsageError, OSError) as error:
        code = _complain(error, 2)
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    sys.exit(code)


def _complain(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
