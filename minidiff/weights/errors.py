"""The one error of everything that reads files of weights."""

from __future__ import annotations

import reprlib

__all__ = ["CheckpointError", "shown"]


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind; the message names the file."""


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120
_short.maxlist = 8


def shown(value: object) -> str:
    """A value out of a file, fit to be printed: what is damaged may be long, or not text."""
    try:
        return _short.repr(value)
    except ValueError:  # numbers of more than 4,300 digits
        return f"a {type(value).__name__} that is too long to print"
