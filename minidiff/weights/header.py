"""What a safetensors file says of its tensors, and whether the file is as long as that.

The file is the length of a header (8 bytes, little-endian), the header in JSON, and the numbers of all tensors
one after the other [1]_. Nothing is believed before it is checked, so that a damaged or hostile file costs
an error, and no more memory than its header.

References
----------
.. [1] https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from minidiff.weights.errors import CheckpointError, shown
from minidiff.weights.json_file import LONGEST, parse_json, refuse_constant

__all__ = [
    "CODES",
    "DTYPES",
    "FLOATING",
    "Entry",
    "Header",
    "check_floating_name",
    "encode_header",
    "numpy_dtype",
    "read_header",
]

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
FLOATING = ("float32", "float16", "bfloat16", "float64")  # what parameters may be
CODES = {name: code for code, name in DTYPES.items()}
MOST_AXES = 64  # NumPy's
METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """One tensor: its NumPy dtype's name, its shape, and where in the file its bytes begin."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return self.size * numpy_dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Header:
    """The tensors of a file by name, in the order of the file, and the remarks of who wrote it."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a name, bfloat16 among them."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def check_floating_name(dtype: str) -> None:
    """Raise ValueError unless parameters may have this dtype."""
    if dtype not in FLOATING:
        raise ValueError(f"dtype must be one of {', '.join(FLOATING)}, got {dtype!r}")


def read_header(file: BinaryIO, length: int, where: object) -> Header:
    """The checked header of a safetensors file of `length` bytes; `where` begins the message of an error.

    Raises
    ------
    CheckpointError
        If the file is not one whole safetensors file, or a tensor is one that NumPy cannot hold.
    """
    if length < 8:
        raise CheckpointError(f"{where}: not a safetensors file ({length} bytes)")
    size = int.from_bytes(file.read(8), "little")
    if size > min(length - 8, LONGEST):
        why = f"a header of {size} bytes in a file of {length}; at most {LONGEST} are read"
        raise CheckpointError(f"{where}: not a whole safetensors file ({why})")
    options = {"object_pairs_hook": _unique, "parse_constant": refuse_constant}
    content = parse_json(file.read(size), f"{where}: header", **options)
    metadata = content.pop(METADATA, {})
    try:
        _check_text(content, metadata)
        entries = _entries(content, length - 8 - size)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None
    first = 8 + size
    return Header({k: Entry(e.dtype, e.shape, e.begin + first) for k, e in entries.items()}, metadata)


def encode_header(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file whose tensors, (dtype, shape) by name, follow in this order.

    Padded to 8 bytes, so that tensors sorted by falling itemsize are aligned.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name, (dtype, shape) in entries.items():
        end = begin + Entry(dtype, shape, begin).nbytes
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {shown(twice)} stands twice")
    return content


def _check_text(names: Iterable[str], metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA} must hold text, got {shown(metadata)}")
    try:
        "".join([*names, *metadata, *metadata.values()]).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a name in the header is no Unicode ({error.reason})") from None


def _entries(content: Mapping[str, Any], length: int) -> dict[str, Entry]:
    """The entries of a header in the order of the file, if together they take all of its `length` bytes, once."""
    spans = []
    for name, value in content.items():
        try:
            spans.append((*_span(value), name))
        except ValueError as error:
            raise ValueError(f"tensor {shown(name)}: {error}") from None
    spans.sort(key=lambda span: span[:2])
    expected = 0
    for begin, end, _, name in spans:
        if begin != expected:
            what = "overlaps the tensor before" if begin < expected else "leaves bytes unused before it"
            raise ValueError(f"tensor {shown(name)} begins at {begin} and {what}, at {expected}")
        expected = end
    if expected != length:
        raise ValueError(
            f"not a whole safetensors file ({length} bytes of numbers, its header describes {expected})"
        )
    return {name: entry for _, _, entry, name in spans}


def _span(value: Any) -> tuple[int, int, Entry]:
    """Where the numbers of an entry begin and end among all numbers, and what they are."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"expected dtype, shape and data_offsets, got {shown(value)}")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"unknown dtype {shown(code)}; there are {', '.join(DTYPES)}")
    if not _are_counts(shape) or len(shape) > MOST_AXES:
        raise ValueError(f"its shape {shown(shape)} is not a list of at most {MOST_AXES} counts")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"its data_offsets {shown(offsets)} are not two counts")
    entry = Entry(DTYPES[code], tuple(shape), offsets[0])
    if math.prod(side for side in shape if side) >= 2**60:  # NumPy checks this of empty arrays, too
        raise ValueError(f"its shape {shown(shape)} is larger than any array")
    if entry.nbytes != offsets[1] - offsets[0]:
        raise ValueError(
            f"shape {shown(shape)} of {code} takes {entry.nbytes} bytes, its data_offsets {shown(offsets)} "
            f"hold {offsets[1] - offsets[0]}"
        )
    return offsets[0], offsets[1], entry


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
