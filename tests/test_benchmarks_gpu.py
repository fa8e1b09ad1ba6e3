"""The sections and the command of the GPU's benchmark, without a GPU: its figures are exact."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu, gpu_bench, gpu_memory, gpu_networks, gpu_ops
from benchmarks.gpu_bench import Bench, Plan
from benchmarks.gpu_parties import flops, images, least_bytes, network, unet_cases
from benchmarks.gpu_sections import SECTIONS
from benchmarks.gpu_timing import Budget
from minidiff import ops, record
from minidiff.backend import Backend, BackendUnavailable, get_backend, register_backend
from minidiff.testing.case import case, normal
from tests import simt
from tests.gpu_fakes import SECONDS, TINY, FakeDevice, bench_on


@pytest.fixture
def cpu() -> Iterator[Backend]:
    backend = get_backend("cpu")
    yield backend
    register_backend(backend)


# --- amounts ---------------------------------------------------------------------------------------------


def test_operations_and_bytes() -> None:
    conv = case("conv2d", normal(2, 3, 8, 8), normal(5, 3, 3, 3), normal(5), stride=2, padding=1)
    result = gpu_ops.result_shape(conv)
    assert result == (2, 5, 4, 4)
    assert flops(conv, result) == 2 * 2 * 5 * 16 * 27
    assert flops(conv, result, gradient=True) == 2 * flops(conv, result)
    assert least_bytes(conv, result, 2) == 2 * (384 + 135 + 5 + 160)
    assert least_bytes(conv, result, 2, gradient=True) == 2 * (2 * (384 + 135 + 5) + 160)
    attention = case("scaled_dot_product_attention", normal(2, 5, 8), normal(2, 7, 8), normal(2, 7, 4))
    assert flops(attention, (2, 5, 4)) == 2 * 2 * 5 * 7 * (8 + 4)
    assert flops(case("silu", normal(3)), (3,)) == 0


def test_cases_of_the_network(cpu: Backend) -> None:
    found = {str(c): count for c, count in unet_cases(cpu, 8, 2, 8)}
    assert any(key.startswith("conv2d(2x3x8x8, 8x3x3x3") for key in found)
    assert any(key.startswith("concat(2x32x2x2, 2x32x2x2") for key in found)


# --- memory ----------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """Bytes in arrays of NumPy."""

    def size() -> int:
        gc.collect()
        arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)

    tracemalloc.start()
    yield size
    tracemalloc.stop()


def test_the_tape_says_what_backpropagation_remembers(traced: Callable[[], int]) -> None:
    backend = emulated()
    model = network(backend, 8)
    x, t, noise = map(backend.from_numpy, images(2, 16))

    def forward() -> Any:
        with record(model):
            return ops.mse_loss(model(x, t), noise)

    forward()  # what is prepared once
    before = traced()
    loss = forward()
    held = traced() - before - loss.data.nbytes
    assert gpu_memory.tape_bytes(backend, 8, 16, 2) == held
    del loss
    assert traced() == before


def test_predicted_memory_grows_with_the_batch_and_not_with_the_parameters_twice() -> None:
    backend = emulated()
    parts = gpu_memory._predicted(bench_on(backend, replace(TINY, channels=8, side=16, step_batch=5)))
    assert parts["tape"] == gpu_memory.tape_bytes(backend, 8, 16, 5)
    assert parts["parameters"] == 4 * network(backend, 8).num_parameters()
    assert parts["moments"] == 2 * parts["gradients"] == 2 * parts["parameters"]


def emulated() -> Backend:
    try:
        return simt.backend()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


# --- sections, all of them -------------------------------------------------------------------------------

OTHERS = [name for name in SECTIONS if name not in ("check", "compiled")]


@pytest.fixture
def torch_parties() -> Any:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_num_threads(1)
    from benchmarks import gpu_torch

    yield gpu_torch
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
    torch.backends.cudnn.benchmark = before[2]


def test_sections(
    cpu: Backend, torch_parties: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bench = bench_on(cpu, torch=torch_parties)
    path = tmp_path / "gpu-fake-1.json"
    gpu.measure(bench, OTHERS, path)
    assert bench.failures == bench.left_out == []
    (run,) = json.loads(path.read_text(encoding="utf-8"))["runs"]
    printed = capsys.readouterr().out
    assert (tmp_path / "gpu-fake-1.log").read_text(encoding="utf-8").splitlines() == printed.splitlines()
    assert run["gpu"] == "Fake 1"
    assert run["torch"] == pytest.importorskip("torch").__version__
    assert run["ceilings"]["copy GB/s"] == round(2 * TINY.copied_bytes / SECONDS / 1e9, 1)
    (large, *_) = run["convolution"]["rows"]
    assert large["ms"]["minidiff"]["median"] == large["ms"]["PyTorch"]["median"]
    assert large["speed to"]["channels_last"]["median"] == 1
    assert {row["group"] for row in run["convolution"]["rows"]} == {
        "large",
        "U-Net, batch 1",
        "U-Net, batch 2",
    }
    assert set(run["convolution"]["speed"].values()) == {1.0}
    for section, batch in (("forward", 1), ("sampling", 2), ("step", 2)):
        row = run[section][0]
        assert list(row["ms"]) == ["captured", "minidiff", "PyTorch", "channels_last"]
        assert 1e3 * batch / row["ms"]["captured"]["median"] == pytest.approx(
            row["images per second"], rel=1e-2
        )
        assert max(row["relative error"].values()) < 1e-3
    assert run["adam"]["row"]["relative error"]["PyTorch"] < 1e-5
    predicted = run["memory"]["predicted MB"]
    assert "  predicted: parameters 0 + gradients 0 + moments 0 + tape 0 = " in printed
    assert "  measured, minidiff: " in printed
    assert predicted["sum"] == pytest.approx(sum(n for k, n in predicted.items() if k != "sum"), abs=0.2)
    assert list(run["memory"]["measured MB"]) == ["captured", "minidiff", "PyTorch", "channels_last"]
    assert "1.00 (1.00-1.00)" in printed


def test_sections_without_pytorch(cpu: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    bench = bench_on(cpu)
    figures = gpu.measure(bench, ["ceilings", "group_norm", "step", "compiled"])
    assert bench.failures == []
    assert figures["torch"].startswith("left out")
    assert figures["group_norm"]["speed"] == {}
    assert list(figures["step"][0]["ms"]) == ["captured", "minidiff"]
    row = figures["group_norm"]["rows"][0]
    nbytes = 4 * (2 * 512 + 64)
    assert row["GB/s"] == round(nbytes / (1e-3 * row["ms"]["minidiff"]["median"]) / 1e9, 2)
    assert "torch.compile: left out" in capsys.readouterr().out


def test_compiled(cpu: Backend, torch_parties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    modes = []

    def compiled(network: Any, mode: str) -> Any:
        modes.append(mode)
        if mode == "max-autotune":
            raise RuntimeError("no compiler")
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    bench = bench_on(cpu, torch=torch_parties)
    rows = gpu_networks.measure_compiled(bench)
    assert modes[:2] == ["default"] * 2
    assert [list(row["ms"]) for row in rows[:2]] == [["captured", "minidiff", "compiled"]] * 2


def test_time_that_is_up_is_said(cpu: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    bench = bench_on(cpu)
    bench.budget = Budget(0.0)
    figures = gpu.measure(bench, ["ceilings", "forward"])
    assert figures["forward"] == []
    assert len(bench.left_out) == 1 + 2 + 2
    printed = capsys.readouterr().out
    assert "no time was left for 3: copy; product" in printed
    assert "0 failed, 5 left out" in printed


def test_a_warning_of_the_backend_is_a_failure(cpu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def section(bench: Bench) -> None:
        logging.getLogger("minidiff_cupy.graphs").warning("%s is not captured", "step")

    monkeypatch.setitem(SECTIONS, "step", (section, 1))
    bench = bench_on(cpu)
    gpu.measure(bench, ["step"])
    assert bench.failures == ["step is not captured"]


def test_a_lost_device_ends_the_run_and_what_was_measured_is_kept(
    cpu: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = False

    def synchronize() -> None:
        if lost:
            raise RuntimeError("cudaErrorIllegalAddress")

    def illegal() -> None:
        nonlocal lost
        lost = True
        synchronize()

    def section(bench: Bench) -> None:
        bench.attempt("silu", illegal)
        bench.attempt("gelu", illegal)

    monkeypatch.setitem(SECTIONS, "step", (section, 1))
    bench = bench_on(replace(cpu, synchronize=synchronize))
    figures = gpu.measure(bench, ["ceilings", "step", "forward"], tmp_path / "gpu.json")
    assert bench.failures[0] == "silu: RuntimeError: cudaErrorIllegalAddress"
    assert bench.failures[1:] == [
        "step: DeviceLost: silu",
        "the device is lost; for the sections from here on, run again with --only",
    ]
    assert "forward" not in figures
    (run,) = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["runs"]
    assert run["failures"] == bench.failures
    assert run["ceilings"]


def test_earlier_runs_are_kept(cpu: Backend, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    for seed in (1, 2):
        bench = bench_on(cpu)
        bench.seed = seed
        gpu.measure(bench, ["ceilings"], path)
    assert [run["seed"] for run in json.loads(path.read_text(encoding="utf-8"))["runs"]] == [1, 2]


# --- the command -----------------------------------------------------------------------------------------


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unavailable() -> None:
        raise BackendUnavailable("there is no NVIDIA driver", "install it")

    monkeypatch.setattr(gpu, "CudaDevice", unavailable)
    assert gpu.main([]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: there is no NVIDIA driver; install it\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "check,chek"], "no section chek; there are check, ceilings"),
        (["--save", "--quick"], "--save needs all sections in full"),
        (["--save", "--only", "check"], "--save needs all sections in full"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("failures", "code"), [([], 0), (["wrong"], 1)])
def test_exit_codes_and_the_file(
    cpu: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failures: list[str], code: int
) -> None:
    def measure(bench: Bench, sections: list[str], path: Path) -> None:
        assert path == tmp_path / "gpu-fake-1.json"
        assert sections == list(SECTIONS)
        assert bench.plan == Plan()
        bench.failures += failures

    monkeypatch.setattr(gpu, "CudaDevice", lambda: FakeDevice(cpu))
    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu.machine, "RESULTS", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu.main(["--save"]) == code


def test_everything_fits_into_eight_minutes() -> None:
    assert Plan().seconds <= 450
    assert Plan().quick().seconds <= 180
    assert gpu._slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert set(gpu_bench.LIMITS) == set(Plan().dtypes)
