"""What `minidiff doctor` says about CUDA: every cause simulated, by a CuPy and a driver that are not there."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minidiff import backend as registry
from minidiff.backend import BackendUnavailable
from minidiff.doctor import examine, main
from minidiff.doctor.findings import Finding, ask
from minidiff_cupy import cache, diagnosis, nvrtc

ROOT = Path(__file__).parent.parent
Machine = types.SimpleNamespace
EXTRAS = "install it with: pip install 'minidiff[cuda12]'"
ALL_GPUS = "docker run --gpus all"


class CUDARuntimeError(RuntimeError):
    """Stands for CuPy's."""


def library(machine: Machine) -> types.ModuleType:
    """A CuPy that finds what `machine` says."""

    def count() -> int:
        if machine.error:
            raise CUDARuntimeError(machine.error)
        return len(machine.gpus)

    def device(number: int = 0) -> Any:
        name, capability = machine.gpus[number]
        return Machine(id=number, compute_capability=capability, mem_info=(3 << 30, 8 << 30), name=name)

    def version() -> tuple[int, int]:
        if machine.nvrtc is None:
            raise RuntimeError("libnvrtc.so.12: cannot open shared object file\nmore")
        return machine.nvrtc  # type: ignore[no-any-return]

    class Cuda(types.ModuleType):
        nvrtc = Machine(getVersion=version)
        runtime = Machine(
            getDeviceCount=count,
            runtimeGetVersion=lambda: machine.cuda,
            getDeviceProperties=lambda number: {"name": device(number).name.encode()},
            CUDARuntimeError=CUDARuntimeError,
        )
        Device = staticmethod(device)

        @property
        def cublas(self) -> Any:
            if not machine.cublas:
                raise ImportError("libcublasLt.so.12")
            return types

    cupy, cuda = types.ModuleType("cupy"), Cuda("cupy.cuda")
    cupy.__version__, cupy.cuda = "14.2.0", cuda  # type: ignore[attr-defined]
    return cupy


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine on which CUDA works; tests take things away."""
    machine = Machine(
        driver=12080,
        cuda=12090,
        gpus=[("Abacus", "90")],
        error="",
        nvrtc=(12, 9),
        headers="/headers",
        cublas=True,
        folder=tmp_path,
        mark=tmp_path / ".dockerenv",
        loaded=tmp_path / "version",
        cache=tmp_path / "cache",
    )
    pathfinder = types.ModuleType("cuda.pathfinder")
    pathfinder.find_nvidia_header_directory = lambda name: machine.headers  # type: ignore[attr-defined]
    cupy = library(machine)
    modules = {
        "cupy": cupy,
        "cupy.cuda": cupy.cuda,
        "cuda": types.ModuleType("cuda"),
        "cuda.pathfinder": pathfinder,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(diagnosis, "driver_version", lambda: machine.driver)
    monkeypatch.setattr(diagnosis, "CONTAINER", (str(machine.mark),))
    monkeypatch.setattr(diagnosis, "LOADED_DRIVER", machine.loaded)
    monkeypatch.setattr(nvrtc, "architectures", lambda: (75, 80, 90))
    monkeypatch.setattr(nvrtc, "compile", lambda *arguments: nvrtc.Binary(b"code", {}, ""))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(machine.cache))
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_by_type", {})
    return machine


def findings() -> dict[str, Finding]:
    return {f.name: f for f in ask(diagnosis.diagnose())}


def test_a_machine_on_which_all_is_well(machine: Machine) -> None:
    machine.gpus = [("Old Abacus", "75"), ("Abacus", "90")]
    answers = findings()
    assert {f.state for f in answers.values()} == {"ok"}
    assert {name: f.text for name, f in answers.items() if name not in ("compiling", "kernel cache")} == {
        "CuPy": "14.2.0, for CUDA 12.9",
        "driver": "for CUDA 12.8 and older",
        "GPU": "Old Abacus, compute capability 7.5, 3.0 of 8.0 GiB free; "
        "Abacus, compute capability 9.0, 3.0 of 8.0 GiB free",
        "NVRTC": "12.9",
        "CUDA headers": "/headers",
        "cuBLAS": "found",
    }
    assert answers["compiling"].text.startswith("sums.cu for sm_80 in ")
    diagnosis.require()


def no_cupy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


def no_cupy_for_13(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver = 13000
    no_cupy(machine, monkeypatch)


def no_cupy_no_driver(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver = 0
    no_cupy(machine, monkeypatch)


def an_old_cupy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which lacks `cuda.pathfinder`, too."""
    sys.modules["cupy"].__version__ = "13.6.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)


def no_folder_for_cupy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "raise PermissionError(13, 'Permission denied', '/home/user/.cupy')"
    machine.folder.joinpath("cupy.py").write_text(source)
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(machine.folder)


def in_a_container(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver = 0
    machine.mark.touch()


def in_a_container_of_a_host_with_a_driver(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_container(machine, monkeypatch)
    machine.loaded.touch()


def a_driver_without_its_library(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver = 0
    machine.loaded.touch()


def a_variable_that_hides_gpus(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.error = "cudaErrorNoDevice"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def sets(**values: Any) -> Callable[..., None]:
    return lambda machine, monkeypatch: machine.__dict__.update(values)


FAULTS: dict[str, tuple[Callable[..., None], str, str, str]] = {  # cause, question, text, fix
    "no CuPy": (no_cupy, "CuPy", "CuPy cannot be imported (", EXTRAS),
    "no CuPy, new driver": (
        no_cupy_for_13,
        "CuPy",
        "CuPy cannot be imported (",
        "pip install 'minidiff[cuda13]'",
    ),
    "no CuPy, no driver": (no_cupy_no_driver, "driver", "there is no NVIDIA driver", "so that `nvidia-smi`"),
    "old CuPy": (
        an_old_cupy,
        "CuPy",
        "CuPy 13.6.0 is too old, the backend needs 14",
        "with: pip install 'minidiff[cuda12]'",
    ),
    "no folder for CuPy": (no_folder_for_cupy, "CuPy", "compiled kernels cannot be kept (", "CUPY_CACHE_DIR"),
    "no driver": (sets(driver=0), "driver", "there is no NVIDIA driver", "so that `nvidia-smi` lists a GPU"),
    "container": (in_a_container, "driver", "there is no NVIDIA driver in this container", ALL_GPUS),
    "container on a host with a driver": (
        in_a_container_of_a_host_with_a_driver,
        "driver",
        "this container was started without the NVIDIA driver of its host",
        ALL_GPUS,
    ),
    "driver without library": (
        a_driver_without_its_library,
        "driver",
        "the NVIDIA driver is loaded, but its library libcuda.so.1 is not found",
        "libcuda1",
    ),
    "old driver": (
        sets(driver=12040, cuda=13020),
        "driver",
        "the NVIDIA driver is for CUDA 12, this CuPy is for CUDA 13",
        "pip uninstall cupy-cuda13x; pip install 'minidiff[cuda12]'",
    ),
    "very old driver": (
        sets(driver=11080),
        "driver",
        "the NVIDIA driver is for CUDA 11",
        "update the driver",
    ),
    "no usable GPU": (
        sets(error="cudaErrorNoDevice: no CUDA-capable device is detected"),
        "GPU",
        "the NVIDIA driver finds no usable GPU (cudaErrorNoDevice",
        ALL_GPUS,
    ),
    "variable": (
        a_variable_that_hides_gpus,
        "GPU",
        "the NVIDIA driver finds no usable GPU (cudaErrorNoDevice)",
        "CUDA_VISIBLE_DEVICES='' may hide it: unset it",
    ),
    "hidden GPU": (sets(gpus=[]), "GPU", "the NVIDIA driver sees no GPU", "check CUDA_VISIBLE_DEVICES"),
    "old GPU": (
        sets(gpus=[("Abacus", "61")]),
        "GPU",
        "the GPU has compute capability 6.1, the kernels need 7.5",
        "use a GPU of 2018 or later",
    ),
    "no NVRTC": (
        sets(nvrtc=None),
        "NVRTC",
        "CuPy finds no NVRTC, CUDA's compiler (libnvrtc.so.12: cannot open shared object file)",
        EXTRAS,
    ),
    "no headers": (
        sets(headers=None),
        "CUDA headers",
        "CuPy finds no headers of CUDA for its own kernels",
        "pip install 'minidiff[cuda12]'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(fault: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question finds it, and whoever wants the backend is told the same."""
    simulate, question, text, fix = FAULTS[fault]
    simulate(machine, monkeypatch)
    finding = findings()[question]
    assert finding.state == "fault"
    assert finding.text.startswith(text)
    assert fix in finding.fix
    with pytest.raises(BackendUnavailable) as reason:
        diagnosis.require()
    assert (reason.value.cause, reason.value.fix) == (finding.text, finding.fix)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_the_screen(
    fault: str, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate, _, text, fix = FAULTS[fault]
    simulate(machine, monkeypatch)
    assert main(["--device", "cuda"]) == 1
    screen = " ".join(capsys.readouterr().out.split())
    assert screen.count(text) == 1
    assert fix in screen
    assert examine("cpu").works("cpu")


def plain(text: str) -> str:
    """Without what differs from machine to machine, and without Markdown's marks."""
    return re.sub(r"\d[\d.]*", "0", text.replace("`", "").partition(" (")[0].lower())


def test_plain() -> None:
    assert plain("CuPy for CUDA 13.2, `a` and 7 (12)") == "cupy for cuda 0, a and 0"


TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| (.+) \|$", TROUBLESHOOTING, flags=re.MULTILINE)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_users_guide(fault: str) -> None:
    """Its cause has a row, which says what doctor says mends it."""
    _, _, text, fix = FAULTS[fault]
    advice = [right for left, right in ROWS if plain(left).startswith(plain(text))]
    assert any(fix.replace("`", "").lower() in right.replace("`", "").lower() for right in advice), advice


def test_a_driver_that_is_too_old_for_any_cupy(machine: Machine) -> None:
    machine.driver = 11080
    assert findings()["driver"].fix == "update the driver"


def test_no_cupy_in_a_container(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be our image for the CPU, in which there is no pip."""
    no_cupy(machine, monkeypatch)
    assert "docker/Dockerfile" not in findings()["CuPy"].fix
    machine.mark.touch()
    assert "run the image of docker/Dockerfile" in findings()["CuPy"].fix


def test_without_a_driver_nobody_knows_which_cupy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    no_cupy_no_driver(machine, monkeypatch)
    assert findings()["CuPy"].fix == f"{EXTRAS} ('minidiff[cuda13]' for a CUDA 13 driver)"


def test_without_cublas_all_but_matrix_products_work(machine: Machine) -> None:
    machine.cublas = False
    finding = findings()["cuBLAS"]
    assert (finding.state, finding.text) == ("caution", "not installed")
    assert finding.fix.startswith("matmul, tensordot and products in float64 need it")
    assert "pip install 'cuda-toolkit[cublas]==12.*'" in finding.fix
    diagnosis.require()


def test_a_kernel_that_does_not_compile(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise nvrtc.CompilationError("sums.cu: NVRTC cannot compile")

    monkeypatch.setattr(nvrtc, "compile", refuse)
    assert findings()["compiling"] == Finding(
        "compiling", "fault", "CompilationError: sums.cu: NVRTC cannot compile"
    )


def test_the_kernel_cache(machine: Machine) -> None:
    machine.cache.mkdir()
    (machine.cache / "a.cubin").write_bytes(bytes(2**20))
    assert findings()["kernel cache"].text == f"{machine.cache}: 1 files, 1.0 MiB"
    assert [path.name for path in machine.cache.iterdir()] == ["a.cubin"]


def test_what_is_kept_can_be_read_by_other_users_of_the_folder(tmp_path: Path) -> None:
    """A container may run as somebody else every time. What cannot be written leaves nothing behind."""
    plain_file = tmp_path / "plain"
    plain_file.touch()
    cache.write(tmp_path / "kernel", b"code")
    assert (tmp_path / "kernel").read_bytes() == b"code"
    assert (tmp_path / "kernel").stat().st_mode == plain_file.stat().st_mode
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        cache.write(tmp_path / "taken", b"code")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernel", "plain", "taken"]


def test_a_kernel_cache_that_cannot_be_written_to(machine: Machine) -> None:
    machine.cache.touch()  # a file: even root cannot make a folder of it
    finding = findings()["kernel cache"]
    assert (finding.state, finding.text[:32]) == ("fault", "compiled kernels cannot be kept ")
    assert finding.fix == "set CUPY_CACHE_DIR to a folder that can be written to"
