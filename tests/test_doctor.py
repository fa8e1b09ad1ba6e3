"""`minidiff doctor`: every branch, by simulating its cause. What CUDA lacks is in test_doctor_cuda.py."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import types
import warnings
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import minidiff_cupy.diagnosis
from minidiff import backend as registry
from minidiff.backend import Backend, BackendUnavailable, diagnosis, get_backend, register_backend
from minidiff.doctor import examine, kernels, machine, main
from minidiff.doctor.findings import Finding, ask
from minidiff_numpy import diagnosis as cpu
from minidiff_numpy import lanes


def found(findings: list[Finding], name: str) -> Finding:
    return next(f for f in findings if f.name == name)


def answer(question: Any) -> Finding:
    return ask({"it": question})[0]


@pytest.fixture
def new_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_by_type", {})


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without CuPy, whatever is installed here."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(minidiff_cupy.diagnosis, "driver_version", lambda: 13000)
    monkeypatch.setattr(minidiff_cupy.diagnosis, "CONTAINER", ())


# --- questions -------------------------------------------------------------------------------------------


def test_an_answer() -> None:
    assert answer(lambda: "3.11") == Finding("it", "ok", "3.11")


def test_a_caution_is_a_warning_on_one_line() -> None:
    def slow() -> str:
        warnings.warn("unset\n   it", stacklevel=1)
        warnings.warn("and more", DeprecationWarning, stacklevel=1)
        return "there"

    assert answer(slow) == Finding("it", "caution", "there", "unset it; and more")


def test_a_fault_has_its_fix_and_an_unforeseen_one_its_type() -> None:
    def raises(error: Exception) -> str:
        raise error

    assert answer(lambda: raises(BackendUnavailable("none", "buy one"))) == Finding(
        "it", "fault", "none", "buy one"
    )
    assert answer(lambda: raises(KeyError("x"))) == Finding("it", "fault", "KeyError: 'x'")


def test_what_was_warned_of_before_a_fault_is_told_too() -> None:
    def broken() -> str:
        warnings.warn("two of them are installed", stacklevel=1)
        raise BackendUnavailable("it does not load", "install it")

    assert answer(broken) == Finding(
        "it", "fault", "it does not load", "install it; two of them are installed"
    )


# --- the machine -----------------------------------------------------------------------------------------


def test_the_machine() -> None:
    findings = ask(machine.QUESTIONS)
    assert {f.state for f in findings} == {"ok"}
    assert f"numpy {np.__version__}" in found(findings, "packages").text
    assert "pytest" not in found(findings, "packages").text  # an extra


def test_a_container_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CONTAINER", [str(tmp_path / "mark")])
    assert "container" not in answer(machine.QUESTIONS["platform"]).text
    (tmp_path / "mark").touch()
    assert answer(machine.QUESTIONS["platform"]).text.endswith(", in a container")


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("pillow", "tqdm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert answer(machine.QUESTIONS["packages"]) == Finding(
        "it", "fault", "not installed: pillow, tqdm", "pip install pillow tqdm"
    )


def test_minidiff_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    finding = answer(machine.QUESTIONS["packages"])
    assert (finding.state, finding.fix) == ("fault", "pip install ., in the folder of minidiff")


def test_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9000\nflags\t: x\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    assert answer(machine.QUESTIONS["processor"]).text == "Abacus 9000, 3 cores for this process"
    (tmp_path / "cpuinfo").unlink()
    assert answer(machine.QUESTIONS["processor"]).text.endswith(", 3 cores for this process")


def test_free_memory_and_a_containers_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    memory = machine.QUESTIONS["memory"]
    assert answer(memory).text == "not known on this system"
    (tmp_path / "meminfo").write_text(
        "MemTotal:       8388608 kB\nMemAvailable:   4194304 kB\nHugePages_Total: 0\n"
    )
    assert answer(memory).text == "4.0 GiB free of 8.0 GiB"
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{2**29}\n")
    assert answer(memory).text == "4.0 GiB free of 8.0 GiB"
    (tmp_path / "memory.max").write_text(f"{2**40}\n")
    assert answer(memory).text == "4.0 GiB free of 8.0 GiB"
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert answer(memory).text == "0.5 GiB free of 1.0 GiB that the container may use"


# --- the CPU backend -------------------------------------------------------------------------------------


def test_blas_and_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    with threadpool_limits(1):
        finding = answer(cpu.diagnose()["BLAS"])
    assert finding.state == "ok"
    assert "1 threads" in finding.text or "cannot be counted" in finding.text


def test_forced_kernels_of_openblas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    finding = answer(cpu.diagnose()["BLAS"])
    assert finding.state == "caution"
    assert "OPENBLAS_CORETYPE=Haswell" in finding.fix
    assert "unset it" in finding.fix


def test_a_blas_that_threadpoolctl_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr("threadpoolctl.threadpool_info", list)
    assert answer(cpu.diagnose()["BLAS"]).text.endswith(", whose threads cannot be counted")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(lanes, "_count", 0)
    monkeypatch.setattr(cpu, "CPU_QUOTA", tmp_path / "cpu.max")
    yield cpu.diagnose()["threads"]
    monkeypatch.undo()
    lanes.set_num_threads(lanes.count())  # other tests have lanes of their own again


def test_threads(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDIFF_NUM_THREADS", "3")
    finding = answer(threads)
    assert finding.state == "ok"
    assert finding.text.startswith("3 of minidiff's own on ")


def test_a_number_of_threads_that_is_none(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDIFF_NUM_THREADS", "many")
    assert answer(threads) == Finding(
        "it",
        "fault",
        "MINIDIFF_NUM_THREADS must be a whole number, got 'many'",
        "set it to the number of threads to use, or unset it",
    )


@pytest.mark.parametrize(("quota", "advised"), [("250000 100000", 2), ("50000 100000", 1)])
def test_a_container_with_less_time_than_threads(
    threads: Any, quota: str, advised: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINIDIFF_NUM_THREADS", "4")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert answer(threads).state == "ok"
    (tmp_path / "cpu.max").write_text(quota)
    finding = answer(threads)
    assert finding.state == "caution"
    assert finding.fix.endswith(f"set MINIDIFF_NUM_THREADS={advised}")


def test_a_numbered_device_is_asked_what_its_kind_is() -> None:
    assert list(diagnosis("cpu:1")) == list(diagnosis("cpu")) == ["BLAS", "threads"]


# --- kernels ---------------------------------------------------------------------------------------------


def test_every_library_computes_right(backend: Backend) -> None:
    findings = ask(kernels.questions(backend))
    assert [f.state for f in findings] == ["ok"] * 3, findings


@pytest.mark.parametrize("wrong", [1.01, np.nan])
@pytest.mark.usefixtures("new_registry")
def test_a_kernel_that_computes_wrongly(wrong: float) -> None:
    real = get_backend("cpu")

    def conv2d(xp: Any, *arrays: Any, **options: Any) -> Any:
        y, vjp = real.kernels["conv2d"](xp, *arrays, **options)
        return y * np.float32(wrong), vjp

    register_backend(replace(real, kernels={**real.kernels, "conv2d": conv2d}))
    report = examine("cpu")
    assert not report.works("cpu")
    finding = found(report.devices[0].findings, "convolution")
    assert finding.state == "fault"
    assert finding.text.startswith("conv2d on cpu is off by ")
    assert found(report.devices[0].findings, "attention").state == "ok"


@pytest.mark.usefixtures("new_registry")
def test_a_gradient_that_is_wrong() -> None:
    real = get_backend("cpu")

    def group_norm(xp: Any, *arrays: Any, **options: Any) -> Any:
        y, vjp = real.kernels["group_norm"](xp, *arrays, **options)
        return y, lambda dy: (lambda: xp.zeros_like(arrays[0]), *vjp(dy)[1:])

    register_backend(replace(real, kernels={"group_norm": group_norm}))
    assert found(ask(kernels.questions(get_backend("cpu"))), "group norm").state == "fault"


# --- the report ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_gpu", "new_registry")
def test_the_screen_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    screen = capsys.readouterr().out
    assert "\ncpu: works\n" in screen
    assert "\ncuda: does not work\n" in screen
    assert screen.count("CuPy cannot be imported") == 1  # though most questions about CUDA end there
    assert max(map(len, screen.splitlines())) <= 110
    assert len(screen.splitlines()) < 50
    assert main(["--device", "cuda"]) == 1


@pytest.mark.usefixtures("no_gpu", "new_registry")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--device", "cuda"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert (values["device"], values["works"]) == ("cuda", False)
    assert values["devices"]["cpu"]["works"]
    first = values["devices"]["cuda"]["findings"][0]
    assert (first["name"], first["state"]) == ("backend", "fault")
    assert first["fix"] == "install it with: pip install 'minidiff[cuda13]'"


@pytest.mark.usefixtures("no_gpu", "new_registry")
def test_a_device_that_nobody_offers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "tpu"]) == 1
    assert "unknown device 'tpu'; installed backends offer" in capsys.readouterr().out


@pytest.mark.usefixtures("no_gpu", "new_registry")
def test_the_package_of_a_third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything to ask; with a diagnosis that fails; and one that cannot be imported at all."""
    real = get_backend("cpu")
    offers = [
        EntryPoint(name, f"{name}_package:backend", registry.__name__) for name in ("one", "two", "three")
    ]
    one, two = types.ModuleType("one_package"), types.ModuleType("two_package")
    for module, name in ((one, "one"), (two, "two")):
        module.backend = lambda name=name: replace(real, device=name)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    two.diagnose = lambda: 1 / 0  # type: ignore[attr-defined]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: offers)
    assert diagnosis("one") == {}
    report = examine("one")
    assert (report.works("one"), report.works("two"), report.works("three")) == (True, True, False)
    devices = {d.name: d.findings for d in report.devices}
    assert found(devices["two"], "diagnosis").text == "ZeroDivisionError: division by zero"
    assert "three_package" in found(devices["three"], "backend").text
