"""Reading: arrays by name that are views of memory-mapped files, in folders laid out as diffusers lays them out."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.backend import Array
from minidiff.weights.errors import CheckpointError, shown
from minidiff.weights.header import Entry, Header, numpy_dtype, read_header
from minidiff.weights.json_file import read_json

__all__ = [
    "STEM",
    "Weights",
    "holds_weights",
    "index_name",
    "open_weights",
    "refuse_pickle",
    "variants_in",
    "weights_name",
]

STEM = "diffusion_pytorch_model"
SHARD = r"(-\d{5}-of-\d{5})?"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


class Weights(Mapping[str, np.ndarray[Any, Any]]):
    """The arrays of safetensors files by name: read-only NumPy views of the files' memory.

    Opening reads the headers alone. The system fetches the numbers when a view is looked at, and
    `release` lets go of them. A file may be replaced or deleted meanwhile, but not be cut or written to.

    Parameters
    ----------
    *paths : str or Path
        Files that have no name in common.

    Attributes
    ----------
    paths : list of Path
    entries : dict of str to Entry
        Dtype and shape of each array.
    metadata : dict of str to str

    Raises
    ------
    CheckpointError
        If a file is missing or damaged, or two hold tensors of one name.
    """

    def __init__(self, *paths: str | Path) -> None:
        self.paths = [Path(path) for path in paths]
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        self._maps: list[mmap.mmap] = []
        self._memory: dict[str, mmap.mmap] = {}
        for path in self.paths:
            memory, header = _map(path)
            for name in header.entries:
                if name in self.entries:
                    raise CheckpointError(f"{path}: tensor {shown(name)} is in another file, too")
            self.entries |= header.entries
            self.metadata |= header.metadata
            self._maps.append(memory)
            self._memory |= dict.fromkeys(header.entries, memory)

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """A read-only view of the file's memory."""
        entry = self.entries[name]
        return np.ndarray(entry.shape, numpy_dtype(entry.dtype), self._memory[name], entry.begin)

    def __iter__(self) -> Iterator[str]:
        """Names in the order of the files."""
        return iter(self.entries)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self.entries)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(entry.size for entry in self.entries.values())

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return sum(entry.nbytes for entry in self.entries.values())

    def one_by_one(self, state: Mapping[str, Array]) -> Mapping[str, Array]:
        """`state`, made from these arrays, with the memory of all released before each is handed out."""
        return _OneByOne(state, self.release)

    def release(self) -> None:
        """Let the system take back the memory of what was read; who looks again makes it fetch that again."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            for memory in self._maps:
                memory.madvise(mmap.MADV_DONTNEED)


class _OneByOne(Mapping[str, Array]):
    def __init__(self, state: Mapping[str, Array], release: Callable[[], None]) -> None:
        self._state, self._release = state, release

    def __getitem__(self, name: str) -> Array:
        self._release()
        return self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def open_weights(folder: str | Path, *, variant: str | None = None, stem: str = STEM) -> Weights:
    """The weights of a folder as diffusers lays it out: one file, or shards and their index.

    Parameters
    ----------
    folder : str or Path
    variant : str, optional
        "fp16" for `diffusion_pytorch_model.fp16.safetensors`.
    stem : str
        What the names of the files begin with.

    Raises
    ------
    CheckpointError
        If there are none, or they are pickled, damaged, or not what the index says.
    """
    folder = Path(folder)
    for name in (index_name(stem, variant), old_index_name(stem, variant)):
        if (folder / name).is_file():
            return _open_shards(folder / name)
    single = folder / weights_name(stem, variant)
    if not single.is_file():
        raise CheckpointError(_why_missing(single, stem, variant))
    return Weights(single)


def variants_in(folder: str | Path, *, stem: str = STEM) -> list[str | None]:
    """Which variants of weights a folder holds, None for those without a name."""
    names = [path.name.removeprefix(stem) for path in Path(folder).glob(f"{stem}*.safetensors")]
    pattern = rf"{SHARD}(\.(?P<variant>[\w-]*?))?{SHARD}\.safetensors"
    found = {match["variant"] for match in (re.fullmatch(pattern, name) for name in names) if match}
    return sorted(found, key=lambda variant: variant or "")


def weights_name(stem: str, variant: str | None = None, shard: str = "") -> str:
    """The name of a file of weights; `shard` is "-00001-of-00002" or nothing."""
    return f"{stem}{'.' + variant if variant else ''}{shard}.safetensors"


def index_name(stem: str, variant: str | None = None) -> str:
    """The name of the file that says which shard holds which tensor."""
    return f"{stem}.safetensors.index{'.' + variant if variant else ''}.json"


def old_index_name(stem: str, variant: str | None = None) -> str:
    """The same in older versions of diffusers, where the number of a shard stood before the variant."""
    return f"{stem}.safetensors{'.' + variant if variant else ''}.index.json"


def holds_weights(name: str, stem: str, variant: str | None) -> bool:
    """Whether a file is one of those that hold the weights of this variant, or their index."""
    dot = re.escape(f".{variant}") if variant else ""
    indices = (index_name(stem, variant), old_index_name(stem, variant))
    return name in indices or bool(re.fullmatch(rf"{re.escape(stem)}{SHARD}{dot}{SHARD}\.safetensors", name))


def refuse_pickle(path: str | Path) -> None:
    """Raise CheckpointError, with the command that converts it, for a file of pickled weights.

    Raises
    ------
    CheckpointError
        If the name ends in .bin, .pt, .pth, .ckpt or .pkl.
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise CheckpointError(
            f"{path}: pickled weights, which may run any program when they are read; where PyTorch is "
            f"installed, convert them with\n  {_conversion(path)}"
        )


def _conversion(path: Path) -> str:
    return (
        'python -c "import sys, torch, safetensors.torch as s; '
        "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
        's.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])" '
        f"'{path}' '{path.with_suffix('.safetensors')}'"
    )


def _map(path: Path) -> tuple[mmap.mmap, Header]:
    refuse_pickle(path)
    try:
        with open(path, "rb") as file:
            header = read_header(file, os.fstat(file.fileno()).st_size, path)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), header
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _open_shards(index: Path) -> Weights:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"{index}: expected weight_map, which names a file for each tensor")
    names = sorted(set(where.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {shown(name)} is not a safetensors file of this folder")
    weights = Weights(*(index.parent / name for name in names))
    wrong = sorted(set(where) ^ set(weights))
    if wrong:
        raise CheckpointError(
            f"{index}: the files and their index do not agree on {len(wrong)} tensors, among them {shown(wrong[0])}"
        )
    return weights


def _why_missing(path: Path, stem: str, variant: str | None) -> str:
    """What is there instead of the file at `path`."""
    if not path.parent.is_dir():
        return f"{path.parent}: no such folder"
    for other in sorted(path.parent.iterdir()):
        if other.suffix in PICKLES and other.name.startswith(stem):
            refuse_pickle(other)
    variants = [other for other in variants_in(path.parent, stem=stem) if other not in (None, variant)]
    found = sorted(p.name for p in path.parent.glob("*.safetensors"))
    if any(holds_weights(name, stem, variant) for name in found):
        return f"{path.parent / index_name(stem, variant)}: no such file, without which shards cannot be read"
    if variants:
        return f"{path}: no such file; there are variants: {', '.join(map(str, variants))} (say variant=, or --variant)"
    return f"{path}: no such file; safetensors files here: {', '.join(found[:9]) or 'none'}"
