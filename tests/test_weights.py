"""Safetensors folders: what others write is read, what is written others read, and what is damaged is refused."""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minidiff.backend import Backend
from minidiff.weights import (
    CheckpointError,
    Weights,
    open_weights,
    read_json,
    variants_in,
    write_file,
    write_weights,
)

KINDS = [
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool", ml_dtypes.bfloat16),
]
NAME = "diffusion_pytorch_model.safetensors"


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    """One array of each dtype, with odd numbers of elements, a scalar and nothing."""
    x = np.random.default_rng(0).normal(size=(3, 5)) * 50
    kinds = [np.dtype(kind) for kind in KINDS]
    return {f"of.{k.name}": np.abs(x).astype(k) for k in kinds} | {
        "scalar": np.asarray(3.5, np.float32),
        "nothing": np.zeros((4, 0, 2), np.float16),
        "Größe": np.arange(3, dtype=np.int8),
    }


def assert_same(left: Any, right: Any) -> None:
    assert left.keys() == right.keys()
    for name in right:
        assert (left[name].dtype, left[name].shape) == (right[name].dtype, right[name].shape), name
        assert left[name].tobytes() == right[name].tobytes(), name


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "a.safetensors", {"who": "safetensors"})
    weights = Weights(tmp_path / "a.safetensors")
    assert_same(weights, arrays())
    assert weights.metadata == {"who": "safetensors"}


def test_what_is_written_safetensors_reads(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors", arrays())
    assert_same(load_file(tmp_path / "a.safetensors"), arrays())
    assert all(view.flags.aligned for view in Weights(tmp_path / "a.safetensors").values())


def test_a_file_byte_by_byte(tmp_path: Path) -> None:
    """The published format: a little-endian length, JSON, numbers."""
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    data = len(header).to_bytes(8, "little") + header + b"\x80\x3f\x00\xc0"
    (tmp_path / "a.safetensors").write_bytes(data)
    (array,) = Weights(tmp_path / "a.safetensors").values()
    assert array.dtype == ml_dtypes.bfloat16
    assert array.astype(float).tolist() == [1.0, -2.0]


def test_arrays_of_every_library_are_written_in_c_order(backend: Backend, tmp_path: Path) -> None:
    host = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    x = backend.xp.permute_dims(backend.from_numpy(host), (2, 0, 1))
    write_file(tmp_path / "a.safetensors", {"x": x, "half": x}, dtype="float16")
    expected = host.transpose(2, 0, 1).astype(np.float16)
    assert_same(load_file(tmp_path / "a.safetensors"), {"x": expected, "half": expected})


def test_a_dtype_is_that_of_floating_arrays(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors", arrays(), dtype="bfloat16")
    kinds = {name: array.dtype.name for name, array in load_file(tmp_path / "a.safetensors").items()}
    assert kinds["of.float64"] == kinds["of.float16"] == "bfloat16"
    assert kinds["of.int16"] == "int16"
    with pytest.raises(
        ValueError, match="dtype must be one of float32, float16, bfloat16, float64, got 'int8'"
    ):
        write_file(tmp_path / "b.safetensors", arrays(), dtype="int8")
    with pytest.raises(TypeError, match="tensor 'c' is complex64"):
        write_file(tmp_path / "b.safetensors", {"c": np.zeros(2, np.complex64)})


def test_numbers_that_a_dtype_does_not_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tensor 'x': some numbers are too large for float16"):
        write_weights(tmp_path / "new", {"x": np.full(3, 1e6, np.float32)}, dtype="float16")
    write_weights(tmp_path / "new", {"x": np.full(3, 1e6, np.float32)}, dtype="bfloat16")


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors", {"x": np.arange(2**20, dtype=np.float32), "y": np.ones(3)})
    tracemalloc.start()
    try:
        weights = Weights(tmp_path / "a.safetensors")
        view = weights["x"]
        assert tracemalloc.get_traced_memory()[1] < 2**17  # of 4 MB
    finally:
        tracemalloc.stop()
    assert isinstance(view.base, mmap.mmap)
    assert not view.flags.writeable
    (tmp_path / "a.safetensors").unlink()
    weights.release()
    assert view[12345] == 12345  # fetched again: on POSIX, a file that is in use outlives its name
    assert (weights.size, weights.nbytes) == (2**20 + 3, 2**22 + 24)


def test_shards_and_their_index(tmp_path: Path) -> None:
    state = {f"layer.{i}": np.full((100,), i, np.float32) for i in range(5)} | {"large": np.ones(500)}
    write_weights(tmp_path, state, max_shard_size="1KB")
    index = read_json(tmp_path / f"{NAME}.index.json")
    assert index["metadata"] == {"total_size": 5 * 400 + 4000}
    shards = [f"diffusion_pytorch_model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    assert [index["weight_map"][name] for name in state] == [shards[i] for i in (0, 0, 1, 1, 2, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*shards, f"{NAME}.index.json"]
    assert_same(open_weights(tmp_path), state)
    for name in shards:
        assert all(index["weight_map"][key] == name for key in load_file(tmp_path / name))


def test_names_of_variants_are_those_of_diffusers(tmp_path: Path) -> None:
    state = {"a": np.ones(100, np.float32), "b": np.ones(100, np.float32)}
    write_weights(tmp_path, state, variant="fp16", dtype="float16")
    assert [p.name for p in tmp_path.iterdir()] == ["diffusion_pytorch_model.fp16.safetensors"]
    write_weights(tmp_path, state, variant="fp16", max_shard_size=400)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ]
    assert_same(open_weights(tmp_path, variant="fp16"), state)
    with pytest.raises(CheckpointError, match=r"there are variants: fp16 \(say variant=, or --variant\)"):
        open_weights(tmp_path)


def test_shards_of_a_variant_under_older_names(tmp_path: Path) -> None:
    """The number before the variant, as diffusers once wrote them; they go when the variant is written anew."""
    state = {name: np.full((10, 10), i, np.float32) for i, name in enumerate("abc")}
    write_weights(tmp_path, state, variant="fp16", max_shard_size=400)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json"
    text = re.sub(r"\.fp16(-[-of0-9]+)\.", r"\1.fp16.", index.read_text())
    for path in tmp_path.glob("*.safetensors"):
        path.rename(tmp_path / re.sub(r"\.fp16(-[-of0-9]+)\.", r"\1.fp16.", path.name))
    index.unlink()
    with pytest.raises(CheckpointError, match=r"index\.fp16\.json: no such file, without which shards"):
        open_weights(tmp_path, variant="fp16")
    (tmp_path / "diffusion_pytorch_model.safetensors.fp16.index.json").write_text(text)
    assert variants_in(tmp_path) == ["fp16"]
    assert_same(open_weights(tmp_path, variant="fp16"), state)
    write_weights(tmp_path, {"a": state["a"] + 1}, variant="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["diffusion_pytorch_model.fp16.safetensors"]


def test_old_weights_go_and_other_files_stay(tmp_path: Path) -> None:
    state = {"a": np.ones(100, np.float32), "b": np.ones(100, np.float32)}
    write_weights(tmp_path, state, max_shard_size=400)
    for name in ("README.md", "diffusion_pytorch_model.fp16.safetensors"):
        (tmp_path / name).write_text("mine")
    write_weights(tmp_path, state, texts={"config.json": "{}"})
    kept = ["README.md", "config.json", "diffusion_pytorch_model.fp16.safetensors", NAME]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept


def test_a_folder_stays_whole_when_writing_fails(tmp_path: Path) -> None:
    class Broken(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise OSError("the disk is full")

    write_weights(tmp_path, {"a": np.ones(3)}, texts={"config.json": "old"})
    with pytest.raises(OSError, match="the disk is full"):
        write_weights(tmp_path, Broken(a=np.zeros(3)), texts={"config.json": "new"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", NAME]
    assert (tmp_path / "config.json").read_text() == "old"
    assert_same(open_weights(tmp_path), {"a": np.ones(3)})


def test_weights_may_be_written_over_the_file_that_they_come_from(tmp_path: Path) -> None:
    write_weights(tmp_path, {"a": np.arange(1000.0)})
    write_weights(tmp_path, open_weights(tmp_path), dtype="float32")
    assert_same(open_weights(tmp_path), {"a": np.arange(1000, dtype=np.float32)})


@pytest.mark.parametrize("size", ["", "5 cats", "GB", "0", 0, -1, "1.5GB"])
def test_sizes_of_shards_make_sense(size: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_shard_size must be bytes, or text such as '5GB'"):
        write_weights(tmp_path, {}, max_shard_size=size)


def entry(offsets: Any, shape: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {"a": entry([0, 8], [2]), "b": entry([0, 8], [2])},
            "tensor 'b' begins at 0 and overlaps the tensor before",
        ),
        ({"a": entry([4, 8], [1])}, "tensor 'a' begins at 4 and leaves bytes unused before it, at 0"),
        ({"a": entry([0, 4], [1])}, "8 bytes of numbers, its header describes 4"),
        ({"a": entry([0, 16], [4])}, "8 bytes of numbers, its header describes 16"),
        ({"a": entry([0, 8], [3])}, r"shape \[3\] of F32 takes 12 bytes, its data_offsets \[0, 8\] hold 8"),
        ({"a": entry([0, 8], [2], "F99")}, "unknown dtype 'F99'; there are F64, F32"),
        ({"a": entry([0, 8], [2], ["F32"])}, r"unknown dtype \['F32'\]"),
        ({"a": entry([0, 8], [-2])}, r"shape \[-2\] is not a list of at most 64 counts"),
        ({"a": entry([0, 8], [True, 2])}, r"shape \[True, 2\] is not"),
        ({"a": entry([0, 8], [2.0])}, r"shape \[2.0\] is not"),
        ({"a": entry([0, 8], [1] * 65 + [2])}, "is not a list of at most 64 counts"),
        ({"a": entry([0, 0], [0, 2**40, 2**40]), "b": entry([0, 8], [2])}, "is larger than any array"),
        ({"a": entry([0, 8], [2**62, 2**62])}, "is larger than any array"),
        ({"a": entry([8, 0], [2])}, "8 bytes, its data_offsets"),
        ({"a": entry([0, 8, 9], [2])}, "are not two counts"),
        ({"a": entry([0, 10**5000], [2])}, r"not JSON \(Exceeds the limit|are not two counts"),
        ({"a": {"dtype": "F32"}}, "expected dtype, shape and data_offsets, got {'dtype': 'F32'}"),
        ({"a": None}, "expected dtype, shape and data_offsets, got None"),
        ({"__metadata__": {"a": 1}}, "__metadata__ must hold text, got {'a': 1}"),
        ({"__metadata__": [1]}, "__metadata__ must hold text"),
        ({"__metadata__": {"a": "\ud800"}}, "no Unicode"),
        (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "NaN is no number of JSON's"),
        (b'{"a":1,"a":1}', "the name 'a' stands twice"),
        (b'{"a":' * 100_000, r"header: not JSON \("),
        (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "no Unicode"),
        (b'{"\xff": 1}', "header: not JSON"),
        (b"[1]", "header: expected a JSON object, found a list"),
        (b"", "header: not JSON"),
    ],
)
def test_damaged_headers(header: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    sys.set_int_max_str_digits(0)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    sys.set_int_max_str_digits(4300)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=message) as caught:
        Weights(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"not a safetensors file \(0 bytes\)"),
        (b"1234567", r"not a safetensors file \(7 bytes\)"),
        ((2**63).to_bytes(8, "little") + b"{}", "a header of 9223372036854775808 bytes in a file of 10"),
        ((2**23 + 1).to_bytes(8, "little") + bytes(2**23 + 1), "at most 8388608 are read"),
    ],
)
def test_no_header_at_all(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        Weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": "x.safetensors"}, r"x\.safetensors: no such file"),
        ({"a": "../x.safetensors"}, r"'\.\./x\.safetensors' is not a safetensors file of this folder"),
        ({"a": "x.bin"}, "'x.bin' is not a safetensors file"),
        ({"a": 1}, "expected weight_map, which names a file for each tensor"),
        (
            {"c": "diffusion_pytorch_model-00001-of-00002.safetensors"},
            "do not agree on 1 tensors, among them 'c'",
        ),
    ],
)
def test_a_wrong_index(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_weights(tmp_path, {"a": np.ones(100), "b": np.ones(100)}, max_shard_size=800)
    index = tmp_path / f"{NAME}.index.json"
    content = read_json(index)
    content["weight_map"] |= change
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path)


def test_two_shards_with_one_name(tmp_path: Path) -> None:
    write_weights(tmp_path, {"a": np.ones(100), "b": np.ones(100)}, max_shard_size=800)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    write_file(second, {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(CheckpointError, match=f"{second.name}: tensor 'a' is in another file, too"):
        open_weights(tmp_path)
    assert first.exists()


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "model.ckpt", "model.pth"])
def test_pickled_weights_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02.")
    where = tmp_path if name.startswith("diffusion") else tmp_path / name
    with pytest.raises(
        CheckpointError, match=r"pickled weights.*\n  python -c .*safetensors\.torch"
    ) as caught:
        open_weights(where) if where.is_dir() else Weights(where)
    assert str(tmp_path / Path(name).with_suffix(".safetensors")) in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_weights(tmp_path / "x")
    with pytest.raises(CheckpointError, match="no such file; safetensors files here: none"):
        open_weights(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Weights(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_json(tmp_path / "x.json")


@pytest.mark.skipif(os.name == "nt", reason="limits of memory and time are POSIX's")
def test_a_thousand_damaged_folders() -> None:
    """`python -m tests.fuzz_weights` runs as many as one likes."""
    command = [sys.executable, "-m", "tests.fuzz_weights", "--count", "1000"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 600 < int(done.stdout.partition(" refused")[0]) < 900, done.stdout
