"""JSON files, with one error for everything that can be wrong with them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from minidiff.weights.errors import CheckpointError

__all__ = ["LONGEST", "parse_json", "read_json", "refuse_constant"]

LONGEST = 1 << 23  # bytes of JSON: Python objects take some twenty times as much


def refuse_constant(text: str) -> float:
    """What to do about NaN and Infinity, which Python's JSON has and JSON has not: `parse_constant` of `json`."""
    raise ValueError(f"{text} is no number of JSON's")


def parse_json(text: bytes, where: object, **options: Any) -> dict[str, Any]:
    """The object that `text` holds; `where` begins the message of an error.

    Raises
    ------
    CheckpointError
        If it is too long, is not JSON, or is no object.
    """
    if len(text) > LONGEST:
        raise CheckpointError(f"{where}: {len(text)} bytes of JSON are more than {LONGEST}")
    try:
        content = json.loads(text.decode("utf-8"), **options)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found a {type(content).__name__}")
    return content


def read_json(path: str | Path, **options: Any) -> dict[str, Any]:
    """The object in a JSON file, such as a `config.json`.

    Parameters
    ----------
    path : str or Path
    **options
        Of `json.loads`. NaN and Infinity pass, as schedulers write them, but with `parse_constant=refuse_constant`.

    Raises
    ------
    CheckpointError
        If the file is missing or too long, is not JSON, or holds no object.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST + 1).removeprefix(codecs.BOM_UTF8)  # editors on Windows write that
            return parse_json(text, path, **options)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
