"""What stands between kernels and a GPU: the backend's complaints, NVRTC, and launches by a CuPy that is not there.

The compiler is the real one where CuPy is installed; it needs no driver.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np
import pytest

from minidiff.backend import Backend, BackendUnavailable
from minidiff_cupy import backend, engine, sources
from tests.simt import nvrtc as budgets
from tests.simt.nvrtc import Instance

ROOT = Path(__file__).parent.parent


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
        self.launches.append((Device.current, grid, block, args, shared_mem))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A CuPy with two GPUs. Its attributes say how many, for which CUDA, and what it loaded."""
    cupy = types.ModuleType("cupy")
    cupy.gpus, cupy.driver, cupy.raws = 2, 12040, []  # type: ignore[attr-defined]

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
        driverGetVersion=lambda: cupy.driver,
        runtimeGetVersion=lambda: 12090,
        CUDARuntimeError=CUDARuntimeError,
    )
    cuda = types.ModuleType("cupy.cuda")
    cuda.nvrtc = types.SimpleNamespace(getVersion=lambda: (12, 9))  # type: ignore[attr-defined]
    cuda.runtime, cuda.Device = runtime, Device  # type: ignore[attr-defined]
    cupy.cuda, cupy.ndarray, cupy.RawModule = cuda, Array, load  # type: ignore[attr-defined]
    cupy.asarray, cupy.asnumpy = lambda host: Array(Device.current), np.asarray  # type: ignore[attr-defined]
    namespace = types.ModuleType("array_api_compat.cupy")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", namespace)
    monkeypatch.setattr(array_api_compat, "cupy", namespace, raising=False)
    monkeypatch.setattr(engine, "_engines", {})
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(Device, "current", 0)
    monkeypatch.delitem(sys.modules, "minidiff_cupy.gpu", raising=False)
    yield cupy
    sys.modules.pop("minidiff_cupy.gpu", None)


# --- the backend -----------------------------------------------------------------------------------------


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert second.from_numpy(np.ones(1)).device.id == 1
    with pytest.raises(BackendUnavailable, match=r"no cuda:2: .* 2 GPU\(s\); use one of cuda:0 to cuda:1"):
        made.numbered(2)


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


XP = types.ModuleType("xp")


def test_a_kernel_is_compiled_once_for_each_device_and_kept_on_disk(cupy: Any, compiled: list[Any]) -> None:
    kernel = engine.load(XP, "sums.cu", "k<float>", "-DX=1")
    assert engine.load(XP, "sums.cu", "k<float>", "-DX=1") is kernel
    assert compiled == []  # nothing is compiled before it is needed
    first, second = Array(0), Array(1)
    for x in (first, first, second, first):
        kernel((3, 2), (32,), (x, None, np.int32(5)), shared_mem=16)
    assert compiled == [("sums.cu", "k<float>", "sm_90a", ("-DX=1",))]
    assert [raw.name for raw in cupy.raws] == ["_Z1k", "_Z1k"]
    assert [raw.path.read_bytes() for raw in cupy.raws] == [b"code", b"code"]
    assert [[launch[0] for launch in raw.launches] for raw in cupy.raws] == [[0, 0, 0], [1]]
    assert cupy.raws[1].launches == [(1, (3, 2), (32,), (second, np.uintp(0), np.int32(5)), 16)]
    assert Device.current == 0


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


# --- the compiler ----------------------------------------------------------------------------------------


def test_what_a_gpu_is_compiled_for() -> None:
    from minidiff_cupy.nvrtc import target

    known = (75, 80, 86, 89, 90, 100, 120)
    expected = {
        75: "sm_75",
        87: "sm_86",
        90: "sm_90a",
        100: "sm_100",
        103: "sm_100",
        121: "sm_120",
        130: "compute_120",
    }
    assert {c: target(c, known) for c in expected} == expected
    assert target(90, (75, 80, 89)) == "compute_89"


def test_a_source_is_read_with_its_headers(tmp_path: Path) -> None:
    (tmp_path / "a.cu").write_text('#include "b.cuh"\n#include <cuda.h>\nkernel')
    (tmp_path / "b.cuh").write_text('#pragma once\n  #include "c.cuh"')
    (tmp_path / "c.cuh").write_text('#pragma once\n#include "b.cuh"')
    assert set(sources.read("a.cu", tmp_path)) == {"a.cu", "b.cuh", "c.cuh"}


@pytest.fixture
def nvrtc() -> Any:
    """The real one."""
    pytest.importorskip("cupy", reason="NVRTC comes with minidiff[cuda12]", exc_type=ImportError)
    nvrtc = importlib.import_module("minidiff_cupy.nvrtc")
    try:
        nvrtc.version()
    except RuntimeError as error:
        pytest.skip(f"NVRTC comes with minidiff[cuda12]: {error}")
    return nvrtc


KERNEL = """#include "numbers.cuh"
template <class T> __global__ void spill(T* y) {
    float x[LENGTH];
    for (int i = 0; i < LENGTH; ++i) x[i] = to_float(y[i * 256]);
    for (int k = 0; k < 9; ++k)
        for (int i = 0; i < LENGTH; ++i) x[i] = x[i] * x[(i + 7) % LENGTH] + k;
    for (int i = 0; i < LENGTH; ++i) y[i * 256] = from_float<T>(x[i]);
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels with one that takes as many registers as it is told."""
    (tmp_path / "numbers.cuh").write_text((sources.FOLDER / "numbers.cuh").read_text())
    (tmp_path / "spill.cu").write_text(KERNEL)
    return tmp_path


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_90a"])
@pytest.mark.parametrize("type_", ["float", "half", "bfloat16"])
def test_numbers_compile(nvrtc: Any, folder: Path, target: str, type_: str) -> None:
    binary = nvrtc.compile("spill.cu", [f"spill<{type_}>"], target, ("-DLENGTH=4",), folder)
    assert binary.code.startswith(b"\x7fELF")
    assert binary.names[f"spill<{type_}>"].startswith("_Z5spill")


def test_ptx_for_a_gpu_of_the_future(nvrtc: Any, folder: Path) -> None:
    assert (
        b".target sm_90"
        in nvrtc.compile("spill.cu", ["spill<float>"], "compute_90", ("-DLENGTH=4",), folder).code
    )


def test_an_error_names_file_kernel_and_line(nvrtc: Any, folder: Path) -> None:
    (folder / "spill.cu").write_text(KERNEL.replace("float x", "floating x"))
    with pytest.raises(
        nvrtc.CompilationError, match=r"(?s)^spill.cu: NVRTC cannot compile spill<half> for sm_80"
    ) as e:
        nvrtc.compile("spill.cu", ["spill<half>"], "sm_80", ("-DLENGTH=4",), folder)
    assert 'spill.cu(3): error: identifier "floating" is undefined' in str(e.value)


# --- budgets ---------------------------------------------------------------------------------------------


@pytest.fixture
def topic(nvrtc: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A topic of one kernel; the folder with its budget."""
    monkeypatch.setattr(budgets, "HERE", folder)
    monkeypatch.setattr(budgets, "topics", lambda: ["spills"])
    monkeypatch.setattr(budgets, "known_targets", lambda: ["sm_80"])
    monkeypatch.setattr(
        budgets, "instances", lambda topic: [Instance("spill.cu", "spill<float>", ("-DLENGTH=300",))]
    )
    compile = nvrtc.compile
    monkeypatch.setattr(nvrtc, "compile", lambda *arguments: compile(*arguments, folder))
    (folder / "budgets").mkdir()
    return folder / "budgets" / "spills.json"


def test_a_kernel_may_use_what_was_written_down_and_no_more(
    topic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert budgets.main(["all"]) == 1
    assert "no budget" in capsys.readouterr().out
    assert budgets.main(["spills", "--write"]) == 0
    assert budgets.main(["spills"]) == 0
    text = topic.read_text()
    registers, spilled = map(int, re.findall(r"\[(\d+), (\d+)\]", text)[0])
    assert registers == 255
    assert spilled > 0
    for less in (f"[{registers - 1}, {spilled}]", f"[{registers}, {spilled - 1}]"):
        topic.write_text(text.replace(f"[{registers}, {spilled}]", less))
        assert budgets.main(["spills"]) == 1
        assert f"[255, {spilled}], above {less}" in capsys.readouterr().out


def test_serialized_wgmma_is_a_complaint(topic: Path, nvrtc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "Potential Performance Loss: wgmma.mma_async instructions are serialized\nUsed 9 registers"
    monkeypatch.setattr(nvrtc, "compile", lambda *arguments: nvrtc.Binary(b"", {}, log))
    assert budgets.main(["spills", "--write"]) == 1
    assert budgets.main(["spills"]) == 1
