"""Writing: safetensors files, one or several with an index, one tensor in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from minidiff.backend import Array, backend_of
from minidiff.files import atomic_path
from minidiff.weights.errors import CheckpointError
from minidiff.weights.header import CODES, FLOATING, check_floating_name, encode_header, numpy_dtype
from minidiff.weights.reading import STEM, holds_weights, index_name, weights_name

__all__ = ["write_file", "write_weights"]

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "": 1}
METADATA = {"format": "pt"}  # names and layouts are PyTorch's; some readers insist on the remark


def write_file(path: str | Path, state: Mapping[str, Array], *, dtype: str | None = None) -> None:
    """Write arrays of any library into one safetensors file.

    Parameters
    ----------
    path : str or Path
        Written to directly; see `minidiff.files` for how to make that atomic.
    state : mapping of str to array
    dtype : str, optional
        "float32", "float16" or "bfloat16": what floating arrays are converted to.

    Raises
    ------
    TypeError
        If an array has a dtype that safetensors files do not have.
    ValueError
        If `dtype` is none for parameters, or (as CheckpointError) cannot hold the numbers.
    """
    kinds = {name: (_dtype_in_file(name, a, dtype), tuple(a.shape)) for name, a in state.items()}
    order = sorted(state, key=lambda name: -numpy_dtype(kinds[name][0]).itemsize)
    with open(path, "wb") as file:
        file.write(encode_header({name: kinds[name] for name in order}, METADATA))
        for name in order:
            file.write(_bytes(name, state[name], kinds[name][0]))


def write_weights(
    folder: str | Path,
    state: Mapping[str, Array],
    *,
    dtype: str | None = None,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
    texts: Mapping[str, str] | None = None,
    stem: str = STEM,
) -> None:
    """Write a folder of weights as diffusers lays it out, and delete the weights that it held before.

    All files are written before the first of them gets its name. Other files of the folder stay.

    Parameters
    ----------
    folder : str or Path
        Made if it does not exist.
    state : mapping of str to array
    dtype : str, optional
        "float32", "float16" or "bfloat16": what floating arrays are converted to.
    variant : str, optional
        "fp16" for `diffusion_pytorch_model.fp16.safetensors`.
    max_shard_size : int or str
        Weights that take more bytes are written into several files: 5_000_000_000 or "5GB". A larger tensor
        has a file to itself.
    texts : mapping of str to str, optional
        Other files to write: name and content.
    stem : str
        What the names of the files begin with.

    Raises
    ------
    ValueError
        If `max_shard_size` is not a size, `dtype` is none for parameters, or (as CheckpointError) cannot hold
        the numbers.
    TypeError
        If an array has a dtype that safetensors files do not have.
    """
    folder = Path(folder)
    shards = list(_shards(state, dtype, _parse_size(max_shard_size)))
    total = len(shards)
    numbered = [f"-{i:05}-of-{total:05}" if total > 1 else "" for i in range(1, total + 1)]
    files = {
        weights_name(stem, variant, number): names for number, names in zip(numbered, shards, strict=True)
    }
    texts = dict(texts or {})
    if total > 1:
        texts[index_name(stem, variant)] = _index(state, dtype, files)
    folder.mkdir(parents=True, exist_ok=True)
    stale = {p for p in folder.iterdir() if holds_weights(p.name, stem, variant)}
    with ExitStack() as unfinished:
        for name, text in texts.items():
            path = unfinished.enter_context(atomic_path(folder / name))
            path.write_text(text, encoding="utf-8")
        for name, names in files.items():
            path = unfinished.enter_context(atomic_path(folder / name))
            write_file(path, {key: state[key] for key in names}, dtype=dtype)
    for path in stale - {folder / name for name in [*files, *texts]}:
        path.unlink()


def _dtype_in_file(name: str, array: Array, wanted: str | None) -> str:
    own = getattr(array.dtype, "name", str(array.dtype)).rpartition(".")[2]
    if own not in CODES:
        raise TypeError(f"tensor {name!r} is {own}; safetensors files here hold {', '.join(CODES)}")
    if wanted is None or own not in FLOATING:
        return own
    check_floating_name(wanted)
    return wanted


def _bytes(name: str, array: Array, dtype: str) -> memoryview:
    """The numbers of an array in C order."""
    host = np.asarray(backend_of(array).to_numpy(array), order="C")
    try:
        with np.errstate(over="raise"):
            return host.astype(numpy_dtype(dtype), copy=False).reshape(-1).view(np.uint8).data
    except FloatingPointError:
        raise CheckpointError(f"tensor {name!r}: some numbers are too large for {dtype}") from None


def _shards(state: Mapping[str, Array], dtype: str | None, limit: int) -> Iterator[list[str]]:
    """Names, in order, whose arrays together take at most `limit` bytes."""
    names: list[str] = []
    room = limit
    for name, array in state.items():
        size = _nbytes(name, array, dtype)
        if size > room and names:
            yield names
            names, room = [], limit
        names.append(name)
        room -= size
    yield names


def _nbytes(name: str, array: Array, dtype: str | None) -> int:
    itemsize = numpy_dtype(_dtype_in_file(name, array, dtype)).itemsize
    return int(np.prod(array.shape, dtype=np.int64)) * itemsize


def _index(state: Mapping[str, Array], dtype: str | None, files: Mapping[str, list[str]]) -> str:
    total = sum(_nbytes(name, array, dtype) for name, array in state.items())
    where = {name: file for file, names in files.items() for name in names}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2) + "\n"


def _parse_size(size: int | str) -> int:
    match = re.fullmatch(r"(\d+) *([A-Za-z]*)", str(size))
    unit = match[2].upper() if match else "?"
    if match is None or unit not in UNITS or int(match[1]) == 0:
        raise ValueError(f"max_shard_size must be bytes, or text such as '5GB' or '500MB', got {size!r}")
    return int(match[1]) * UNITS[unit]
