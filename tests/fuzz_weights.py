"""Damage to files of weights and configurations: each is a clear error or a correct load.

    python -m tests.fuzz_weights --count 10000 --seed 0

Every case damages one file of a whole folder, of one file or of shards, and loads it. Only `CheckpointError` may
come of it, or what the safetensors package reads from the same bytes. Memory is limited, and so is time.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

from minidiff.checkpoints import describe_model, load_model, save_checkpoint
from minidiff.convert import kind_of
from minidiff.models import UNet2DModel
from minidiff.weights import CheckpointError, Weights, write_weights

T = TypeVar("T")
Random: TypeAlias = np.random.Generator
Damage: TypeAlias = Callable[[bytes, Random], bytes]
ROOM = 1 << 28  # bytes that loading a folder of a few kilobytes may take
SECONDS = 5
MODEL = UNet2DModel(
    block_out_channels=(2,),
    down_block_types=("DownBlock2D",),
    up_block_types=("AttnUpBlock2D",),
    layers_per_block=1,
    norm_num_groups=1,
    num_class_embeds=3,
    attention_head_dim=None,
)
POISON: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1,
        3,
        10**6,
        10**9,
        2**31,
        2**63 - 1,
        2**63,
        2**64,
        10**30,
        10**4000,
        -(2**70),
        1.5,
        1e308,
    ),
    *(float("nan"), float("inf"), "", "x", "8", "F32", "F99", "\ud800", "../../etc/passwd", "a" * 10_000),
    *(
        [],
        [[]],
        [1],
        [-1, 2],
        [2**62, 2**62],
        [0, 2**62],
        [0, 8],
        [8, 0],
        [4, 12],
        [1] * 100,
        [1.0, 2],
        [True],
    ),
    *({}, {"a": 1}, {"dtype": "F32"}, [10**9], [10**9] * 4, ["x"], [None]),
]


def pick(values: Sequence[T], rng: Random) -> T:
    """One of them."""
    return values[rng.integers(len(values))]


def flip(data: bytes, rng: Random) -> bytes:
    """One to four bits."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        damaged[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def flip_early(data: bytes, rng: Random) -> bytes:
    """A bit where headers are."""
    damaged = bytearray(data)
    damaged[rng.integers(min(len(data), 600))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut(data: bytes, rng: Random) -> bytes:
    """The end is missing, or there is too much."""
    return data[: rng.integers(len(data))] if rng.integers(4) else data + bytes(int(rng.integers(1, 99)))


def splice(data: bytes, rng: Random) -> bytes:
    """A stretch stands elsewhere too."""
    a, b, length = (int(i) for i in rng.integers(0, len(data), 3))
    return data[:a] + data[b : b + length % 200] + data[a + (length % 200 if rng.integers(2) else 0) :]


def lie_about_length(data: bytes, rng: Random) -> bytes:
    """The header is said to have another length."""
    length = pick([0, 1, 2, len(data) - 8, len(data), 10**8, 2**31, 2**62, 2**64 - 1], rng)
    return struct.pack("<Q", length) + data[8:]


def rewrite_header(data: bytes, rng: Random) -> bytes:
    """The header is JSON of its length, but something in it makes no sense."""
    return _with_header(data, lambda header: _poisoned(header, rng))


def overlap(data: bytes, rng: Random) -> bytes:
    """A tensor lies where it should not, though its length is right."""

    def move(header: dict[str, Any]) -> str:
        entries = [value for value in header.values() if "data_offsets" in value]
        entry, step = pick(entries, rng), pick([-8, -4, -1, 1, 4, 8, 10**15], rng)
        if rng.integers(2):
            header["alias"] = dict(entry)
        else:
            entry["data_offsets"] = [offset + step for offset in entry["data_offsets"]]
        return json.dumps(header)

    return _with_header(data, move)


def _with_header(data: bytes, change: Callable[[dict[str, Any]], str]) -> bytes:
    size = int.from_bytes(data[:8], "little")
    text = change(json.loads(data[8 : 8 + size])).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def rewrite_json(data: bytes, rng: Random) -> bytes:
    """A JSON file in which something makes no sense."""
    return _poisoned(json.loads(data), rng).encode("utf-8", "surrogatepass")


def _poisoned(content: dict[str, Any], rng: Random) -> str:
    """JSON in which a value is another, a name is missing, new or twice, or which is deep or no JSON at all."""
    name, poison = pick(list(content), rng), pick(POISON, rng)
    kind = rng.integers(8)
    if kind == 0:
        del content[name]
    elif kind == 1:
        content["wings"] = poison
    elif kind == 2:
        text = json.dumps(content)
        return text[:-1] + f", {json.dumps(name)}: {_dumps(content[name])}" + "}"
    elif kind == 3:
        return str(
            pick(["[" * 100_000, '{"a":' * 50_000, "null", "[]", "", "NaN", "1" * 5000, "{'a': 1}"], rng)
        )
    elif kind == 4 or not isinstance(content[name], dict):
        content[name] = poison
    elif isinstance(content[name], dict) and content[name]:
        part = pick(list(content[name]), rng)
        value = content[name][part]
        if isinstance(value, list) and value and kind > 5:
            value[rng.integers(len(value))] = poison
        else:
            content[name][part] = poison
    return _dumps(content)


def _dumps(value: Any) -> str:
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(4300)


DAMAGE: dict[str, list[Damage]] = {
    ".safetensors": [
        flip,
        flip_early,
        cut,
        splice,
        lie_about_length,
        overlap,
        rewrite_header,
        rewrite_header,
        rewrite_header,
    ],
    ".json": [flip, cut, splice, rewrite_json, rewrite_json, rewrite_json, rewrite_json],
}


def make_folders(parent: Path) -> dict[Path, Callable[[Path], Any]]:
    """Whole folders, and what is to be done with each."""
    one, several, mixed, checkpoint, pipeline = (parent / str(number) for number in range(5))
    MODEL.save_pretrained(one)
    MODEL.save_pretrained(several, max_shard_size=2 * MODEL.num_parameters())  # half of it in a file
    kinds = ["float64", "float32", "float16", ml_dtypes.bfloat16, "int64", "int8", "uint8", "bool"]
    write_weights(mixed, {f"t{i}": np.ones((2, i % 3), kind) for i, kind in enumerate(kinds)})
    states = {"model": MODEL.state_dict(), "ema": MODEL.state_dict()}
    save_checkpoint(checkpoint, states, {"model": describe_model(MODEL), "training": {"step": 3}})
    MODEL.save_pretrained(pipeline / "unet")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "vae": [None, None]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    load = UNet2DModel.from_pretrained
    return {one: load, several: load, mixed: describe, checkpoint: load_model, pipeline: describe}


def describe(folder: Path) -> list[str]:
    """What `python -m minidiff convert` says."""
    return list(kind_of(folder).describe(folder))


def outcome(function: Callable[[Path], Any], path: Path) -> str:
    """What came of it: "loaded" or "refused"; anything else is an exception."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*unknown configuration keys", UserWarning)
            function(path)
    except CheckpointError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None
        _check_clear(str(error), path)
        return "refused"
    return "loaded"


def _check_clear(message: str, path: Path) -> None:
    """A message names the file, is not endless, and can be printed."""
    assert str(path) in message, message[:500]
    assert len(message) < 5000, message[:500]
    message.encode()


def compare(file: Path) -> None:
    """What is read is what the safetensors package reads."""
    weights, expected = Weights(file), load_file(file)
    assert weights.keys() == expected.keys()
    for name, array in weights.items():
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        assert array.tobytes() == expected[name].tobytes()


def fuzz(parent: Path, count: int, seed: int) -> Counter[str]:
    """How many of `count` damaged folders were loaded and refused.

    Raises
    ------
    AssertionError
        If anything else came of one; it says of which.
    """
    rng, outcomes = np.random.default_rng(seed), Counter[str]()
    folders = make_folders(parent)
    assert all(outcome(function, folder) == "loaded" for folder, function in folders.items())
    for case in range(count):
        folder = pick(list(folders), rng)
        path = pick(sorted(p for p in folder.rglob("*") if p.is_file()), rng)
        damage = pick(DAMAGE[path.suffix], rng)
        whole = path.read_bytes()
        path.write_bytes(damage(whole, rng))
        signal.signal(signal.SIGALRM, _too_slow)
        signal.alarm(SECONDS)
        try:
            outcomes[outcome(folders[folder], folder)] += 1
            if path.suffix == ".safetensors":
                outcome(compare, path)
        except BaseException as error:
            shutil.copy(path, Path(tempfile.gettempdir()) / f"failed-{path.name}")
            raise AssertionError(
                f"case {case} of seed {seed}, {damage.__name__} of {path}: {error!r}"
            ) from error
        finally:
            signal.alarm(0)
            path.write_bytes(whole)
    return outcomes


def _too_slow(number: int, frame: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def main() -> None:
    """Damage, load, and print how often it was refused."""
    parser = argparse.ArgumentParser(description="Load damaged weights and configurations.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    memory = Path("/dev/shm")  # where there is one, files are written and read without a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
        began = time.perf_counter()
        outcomes = fuzz(Path(folder) / "folders", args.count, args.seed)
        seconds = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    counts = f"{outcomes['refused']} refused, {outcomes['loaded']} loaded"
    print(f"{counts} in {seconds:.1f} s; memory grew by {grown:.0f} MiB")


if __name__ == "__main__":
    main()
