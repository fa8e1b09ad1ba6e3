"""The backend of CUDA with a CuPy that is not there: its complaints, its devices, and launches."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np
import pytest

import minidiff_cupy
from minidiff.backend import Backend, BackendUnavailable
from minidiff_cupy import backend, diagnosis, engine, sources

XP = types.ModuleType("xp")


class CUDARuntimeError(RuntimeError):
    """Stands for `cupy.cuda.runtime.CUDARuntimeError`."""


class Device:
    """Stands for `cupy.cuda.Device`; the current one is a number of the class."""

    current = 0
    attributes = types.MappingProxyType({"MultiProcessorCount": 132})
    compute_capability = "90"

    def __init__(self, number: int | None = None) -> None:
        self.id = Device.current if number is None else number

    def use(self) -> None:
        Device.current = self.id

    def __enter__(self) -> None:
        self.before, Device.current = Device.current, self.id

    def __exit__(self, *_: object) -> None:
        Device.current = self.before


class Array:
    """Stands for `cupy.ndarray`."""

    def __init__(self, device: int) -> None:
        self.device = Device(device)


class Raw:
    """Stands for `cupy.RawKernel`: remembers what it was launched with, and where."""

    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name, self.launches = Path(path), name, []

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert all(type(n) is int and 0 < n < 2**31 for n in (*grid, *block))  # CuPy launches 1 in place of 0
        assert all(map(is_packed, args))
        self.launches.append((Device.current, grid, block, args, shared_mem))


def is_packed(argument: Any) -> bool:
    """Whether CuPy's `_pointer` passes it as it is: a Python number becomes one of 64 bits, a structure is refused."""
    if isinstance(argument, np.ndarray):
        return argument.size == 1 and argument.dtype.kind == "V"
    return isinstance(argument, Array) or (isinstance(argument, np.generic) and argument.dtype.kind in "biuf")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A CuPy with two GPUs. Its attributes say how many, for which CUDA, and what it loaded."""
    cupy = types.ModuleType("cupy")
    cupy.__version__, cupy.gpus, cupy.driver, cupy.raws = "14.2.0", 2, 12040, []  # type: ignore[attr-defined]

    def count() -> int:
        if isinstance(cupy.gpus, Exception):
            raise cupy.gpus
        return int(cupy.gpus)

    def load(path: str) -> Any:
        def get_function(name: str) -> Raw:
            cupy.raws.append(Raw(path, name))
            return cupy.raws[-1]

        return types.SimpleNamespace(get_function=get_function)

    runtime = types.SimpleNamespace(
        getDeviceCount=count,
        runtimeGetVersion=lambda: 12090,
        CUDARuntimeError=CUDARuntimeError,
    )
    cuda = types.ModuleType("cupy.cuda")
    cuda.nvrtc = types.SimpleNamespace(getVersion=lambda: (12, 9))  # type: ignore[attr-defined]
    cuda.runtime, cuda.Device = runtime, Device  # type: ignore[attr-defined]
    pathfinder = types.ModuleType("cuda.pathfinder")
    pathfinder.find_nvidia_header_directory = lambda name: "/usr/include"  # type: ignore[attr-defined]
    cupy.cuda, cupy.ndarray, cupy.RawModule = cuda, Array, load  # type: ignore[attr-defined]
    cupy.asarray, cupy.asnumpy = lambda host: Array(Device.current), np.asarray  # type: ignore[attr-defined]
    namespace = types.ModuleType("array_api_compat.cupy")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", namespace)
    monkeypatch.setattr(array_api_compat, "cupy", namespace, raising=False)
    monkeypatch.setattr(engine, "_engines", {})
    monkeypatch.setattr(diagnosis, "driver_version", lambda: cupy.driver)
    monkeypatch.setattr(diagnosis, "CONTAINER", ())
    monkeypatch.setattr(diagnosis, "LOADED_DRIVER", tmp_path / "none")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(Device, "current", 0)
    monkeypatch.delitem(sys.modules, "minidiff_cupy.gpu", raising=False)
    yield cupy
    sys.modules.pop("minidiff_cupy.gpu", None)


# --- the backend -----------------------------------------------------------------------------------------


def test_without_cupy(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        BackendUnavailable, match=r"CuPy cannot be imported .*pip install 'minidiff\[cuda12\]'"
    ):
        backend()


def test_without_a_driver(cupy: Any) -> None:
    cupy.driver = 0
    with pytest.raises(BackendUnavailable, match=r"there is no NVIDIA driver; .*`docker run --gpus all`"):
        backend()


def test_with_a_driver_for_an_older_cuda(cupy: Any) -> None:
    cupy.driver = 11080
    with pytest.raises(
        BackendUnavailable, match="driver is for CUDA 11, this CuPy is for CUDA 12; update the driver"
    ):
        backend()


def test_with_a_driver_that_fails(cupy: Any) -> None:
    cupy.gpus = CUDARuntimeError("cudaErrorNoDevice")
    with pytest.raises(
        BackendUnavailable, match=r"no usable GPU \(cudaErrorNoDevice\); `nvidia-smi` must list one"
    ):
        backend()


def test_without_a_gpu(cupy: Any) -> None:
    cupy.gpus = 0
    with pytest.raises(BackendUnavailable, match="sees no GPU; check CUDA_VISIBLE_DEVICES"):
        backend()


def test_without_nvrtc(cupy: Any) -> None:
    def missing() -> None:
        raise RuntimeError("libnvrtc.so.12 not found")

    cupy.cuda.nvrtc.getVersion = missing
    with pytest.raises(
        BackendUnavailable, match=r"no NVRTC.* \(libnvrtc.so.12 not found\); .*'minidiff\[cuda12\]'"
    ):
        backend()


def test_a_numbered_device_becomes_the_current_one(cupy: Any) -> None:
    made = backend()
    assert isinstance(made, Backend)
    assert made.device == "cuda"
    assert made.numbered is not None
    assert Device.current == 0
    second = made.numbered(1)
    assert second.device == "cuda:1"
    assert Device.current == 1
    assert made.numbered(0).from_numpy(np.ones(1)).device.id == 0
    assert Device.current == 0
    assert second.from_numpy(np.ones(1)).device.id == 1
    with pytest.raises(BackendUnavailable, match=r"no cuda:2: .* 2 GPU\(s\); use one of cuda:0 to cuda:1"):
        made.numbered(2)


def test_a_matrix_product_without_cublas(cupy: Any) -> None:
    """CuPy loads cuBLAS when it is first called: its ImportError becomes a cause and what mends it."""

    def matmul(a: Any, b: Any) -> Any:
        if missing:
            raise ImportError('Failure finding "libcublasLt.so.12"')
        return a, b

    array_api_compat.cupy.matmul = matmul
    made, missing = backend(), False
    assert made.numbered is not None
    assert made.numbered(1).xp is made.xp
    assert made.xp.__name__ == "array_api_compat.cupy"
    assert made.xp.matmul(1, 2) == (1, 2)
    missing = True
    with pytest.raises(
        BackendUnavailable, match=r"needs cuBLAS.*; .*'cuda-toolkit\[cublas\]==12\.\*'"
    ) as reason:
        made.xp.matmul(1, 2)
    assert isinstance(reason.value.__cause__, ImportError)


# --- several devices -------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The device that was current at each part of the only rule of the table."""
    seen: list[int] = []

    def gradient() -> None:
        seen.append(Device.current)

    def rule(*arguments: Any, **options: Any) -> Any:
        seen.append(Device.current)

        def vjp(dy: Any) -> Any:
            seen.append(Device.current)
            return None, gradient

        return "y", vjp

    monkeypatch.setattr(minidiff_cupy, "KERNELS", {"rule": rule})
    return seen


@pytest.mark.parametrize("number", [None, 0, 1])
@pytest.mark.parametrize("where", [0, 1])
def test_a_rule_and_its_gradients_run_where_the_arrays_are(
    cupy: Any, seen: list[int], where: int, number: int | None
) -> None:
    made = backend()
    assert made.numbered is not None
    made = made if number is None else made.numbered(number)
    Device(1 - where).use()
    x = Array(where)
    for arguments in ((XP, x), (XP, 2.0, x), (XP, [(None, x)], Array(1 - where)), (XP, {"w": [x]})):
        y, vjp = made.kernels["rule"](*arguments, option=1)
        nothing, gradient = vjp(x)
        assert (y, nothing, gradient()) == ("y", None, None)
        assert seen == [where] * 3
        seen.clear()
    assert Device.current == 1 - where


def test_without_arrays_it_is_the_backends_device(cupy: Any, seen: list[int]) -> None:
    made = backend()
    assert made.numbered is not None
    second = made.numbered(1)
    for current in (0, 1):
        Device(current).use()
        for each in (made, second):
            _, vjp = each.kernels["rule"](XP, 3)
            vjp(4)
        assert seen == [current, current, 1, 1]
        seen.clear()


def test_what_a_kernel_returns_that_is_no_rule(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Array(1)
    results = {"none": NotImplemented, "one": x, "rows": [(x, x), (x, None)]}
    monkeypatch.setattr(minidiff_cupy, "KERNELS", {k: lambda xp, x, v=v: v for k, v in results.items()})
    made = backend()
    assert {name: rule(XP, x) for name, rule in made.kernels.items()} == results


def test_compiled_functions_run_where_their_arrays_are(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded: list[Any] = []

    @contextmanager
    def explained(given: Any) -> Iterator[None]:
        guarded.append(given)
        yield

    monkeypatch.setattr(minidiff_cupy, "explained", explained)
    made = backend()
    double = made.compile(lambda x, more: (Device.current, x, more))
    x = Array(1)
    x.shape, x.dtype, x.strides, x.ndim = (), np.dtype("float32"), (), 0  # type: ignore[attr-defined]
    assert double([x], 3) == (1, [x], 3)
    assert guarded == [cupy]
    assert Device.current == 0


def test_with_one_device_nothing_is_placed(cupy: Any) -> None:
    cupy.gpus = 1
    assert backend().kernels == minidiff_cupy.KERNELS


def test_the_table_of_kernels_needs_no_cupy() -> None:
    program = "import sys, minidiff_cupy; print(len(minidiff_cupy.KERNELS), 'cupy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"[1-9]\d* False\n", done.stdout)


# --- launches --------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of a compiler that needs no time."""
    nvrtc = importlib.import_module("minidiff_cupy.nvrtc")
    calls: list[Any] = []

    def compile(file: str, names: list[str], target: str, options: Any) -> Any:
        calls.append((file, *names, target, options))
        return nvrtc.Binary(b"code", {names[0]: "_Z1k"}, "")

    monkeypatch.setattr(nvrtc, "compile", compile)
    monkeypatch.setattr(nvrtc, "architectures", lambda: (75, 80, 90, 100))
    return calls


def test_a_kernel_is_compiled_once_for_each_device_and_kept_on_disk(cupy: Any, compiled: list[Any]) -> None:
    kernel = engine.load(XP, "sums.cu", "k<float>", "-DX=1")
    assert engine.load(XP, "sums.cu", "k<float>", "-DX=1") is kernel
    assert compiled == []  # nothing is compiled before it is needed
    first, second = Array(0), Array(1)
    for x in (first, first, second, first):
        with x.device:
            kernel((3, 2), (32,), (x, None, np.int32(5)), shared_mem=16)
    assert compiled == [("sums.cu", "k<float>", "sm_90a", ("-DX=1",))]
    assert [raw.name for raw in cupy.raws] == ["_Z1k", "_Z1k"]
    assert [raw.path.read_bytes() for raw in cupy.raws] == [b"code", b"code"]
    assert [[launch[0] for launch in raw.launches] for raw in cupy.raws] == [[0, 0, 0], [1]]
    assert cupy.raws[1].launches == [(1, (3, 2), (32,), (second, np.uintp(0), np.int32(5)), 16)]
    assert Device.current == 0


def test_a_structure_keeps_its_bytes(cupy: Any, compiled: list[Any]) -> None:
    table = np.zeros((), np.dtype([("address", np.uint64, 3), ("size", np.int32)], align=True))
    table["address"], table["size"] = (1, 2, 3), 4
    engine.load(XP, "sums.cu", "k")((1,), (1,), (table[()], np.float32(0.5)))
    [(_, _, _, (packed, number), _)] = cupy.raws[0].launches
    assert packed.tobytes() == table.tobytes()
    assert (packed.size, packed.nbytes, number) == (1, 32, 0.5)


@pytest.mark.parametrize("argument", [3, 0.5, True, "x", (1, 2), np.zeros(2, np.float32), np.complex64(1)])
def test_what_cupy_would_pass_otherwise_is_seen(cupy: Any, compiled: list[Any], argument: Any) -> None:
    with pytest.raises(AssertionError):
        engine.load(XP, "sums.cu", "k")((1,), (1,), (argument,))


def test_another_option_name_or_source_is_another_kernel(
    cupy: Any, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, options in [("k<float>", ()), ("k<half>", ()), ("k<float>", ("-DX=1",)), ("k<float>", ())]:
        engine.load(XP, "sums.cu", name, *options)((1,), (1,), ())
    assert len(compiled) == 3
    monkeypatch.setattr(engine, "_engines", {})  # as in a new process
    engine.load(XP, "sums.cu", "k<float>")((1,), (1,), ())
    assert len(compiled) == 3
    monkeypatch.setattr(engine, "_engines", {})
    texts = sources.read("sums.cu")
    monkeypatch.setattr(sources, "read", lambda file: {**texts, "numbers.cuh": "changed"})
    engine.load(XP, "sums.cu", "k<float>")((1,), (1,), ())
    assert len(compiled) == 4


def test_shared_memory_above_48_kib_is_asked_for(cupy: Any, compiled: list[Any]) -> None:
    kernel = engine.load(XP, "sums.cu", "k")
    kernel((1,), (1,), (), shared_mem=1000)
    assert cupy.raws[0].max_dynamic_shared_size_bytes == 48 * 1024
    kernel((1,), (1,), (), shared_mem=100_000)
    assert cupy.raws[0].max_dynamic_shared_size_bytes == 100_000
    kernel((1,), (1,), (), shared_mem=60_000)
    assert cupy.raws[0].max_dynamic_shared_size_bytes == 100_000


def test_what_the_device_is(cupy: Any) -> None:
    assert engine.multiprocessors(XP) == 132
    assert engine.capability(XP) == 90
