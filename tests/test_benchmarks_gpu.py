"""The GPU's benchmark without a GPU: its checks find planted bugs, its clock is a fake, its figures are exact."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu, gpu_bench, gpu_checks, gpu_device, gpu_sections, gpu_timing
from benchmarks.gpu_bench import Bench, Plan
from benchmarks.gpu_parties import activation_bytes, flops, least_bytes, unet_cases
from benchmarks.gpu_sections import SECTIONS
from benchmarks.gpu_timing import Budget, OutOfTime, interleave, relative, sets_for
from benchmarks.interleave import Work
from minidiff.backend import Backend, BackendUnavailable, get_backend, register_backend
from minidiff.testing import CASES
from minidiff.testing.case import case, normal
from minidiff_cupy import nvrtc
from tests import simt

TINY = Plan(
    channels=4,
    side=4,
    batches=(1, 2),
    batch=2,
    step_batch=2,
    dtypes=("float32",),
    convolutions=((1, 8, 4, 8, 3),),
    attentions=((1, 2, 8, 8),),
    normalizations=((1, 32, 4),),
    ddim=2,
    check_steps=2,
    square=8,
    copied_bytes=1 << 10,
    rounds=3,
    least=1e-3,
    seconds=500.0,
)
SECONDS = 2.0**-10  # of whatever a device is asked to do


class FakeDevice:
    """Does what it is told, and says that each call took the same time."""

    torch_device, cache_bytes = "cpu", 1 << 12

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.holds: list[float] = []

    def describe(self) -> dict[str, Any]:
        return {"gpu": "Fake 1"}

    def one_stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def elapsed(self, run: Callable[[], object], hold: float = 0.0) -> float:
        self.holds.append(hold)
        run()
        return SECONDS

    def free_bytes(self) -> int:
        return 1 << 30

    def release(self) -> None:
        pass

    def peak_bytes(self, run: Callable[[], object]) -> int:
        tracemalloc.start()
        kept = run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del kept
        return peak

    def library_product(self, a: Any, b: Any) -> Any:
        return a @ b


def bench_on(backend: Backend, plan: Plan = TINY, *, torch: Any = None) -> Bench:
    return Bench(FakeDevice(backend), plan, Budget(plan.seconds), seed=1, torch=torch)


@pytest.fixture
def cpu() -> Iterator[Backend]:
    backend = get_backend("cpu")
    yield backend
    register_backend(backend)


# --- checks ----------------------------------------------------------------------------------------------


def correct(name: str) -> Callable[..., Any]:
    """A kernel that serves all dtypes: the generic rule, in float64, rounded once."""
    from minidiff import ops

    rule = getattr(ops, name).rule

    def kernel(xp: Any, *arrays: Any, **options: Any) -> Any:
        wide = [x.astype(np.float64) if isinstance(x, np.ndarray) else x for x in arrays]
        y, vjp = rule(xp, *wide, **options)
        out = xp.empty(y.shape, dtype=arrays[0].dtype)
        out[...] = y
        return out, lambda dy: vjp(dy.astype(np.float64))

    return kernel


def unwritten(xp: Any, *arrays: Any, **options: Any) -> Any:
    y, vjp = correct("silu")(xp, *arrays, **options)
    out = xp.empty(y.shape, dtype=y.dtype)
    out.reshape(-1)[:-1] = y.reshape(-1)[:-1]
    return out, vjp


def wrong_gradient(xp: Any, *arrays: Any, **options: Any) -> Any:
    y, vjp = correct("silu")(xp, *arrays, **options)
    return y, lambda dy: [0.98 * g for g in vjp(dy)]


def check_silu(backend: Backend, kernel: Callable[..., Any]) -> tuple[Any, list[str]]:
    bench = bench_on(replace(backend, kernels={"silu": kernel}))
    with gpu_checks.poisoned(bench.device.backend) as device:
        checks = gpu_checks._Checks(bench, device)
        errors = checks.cases("of silu", [case("silu", normal(3, 5))], get_backend("cpu"))
        never = set(device.kernels) - checks.ran
    return errors, [*bench.failures, *never]


def test_a_right_kernel_passes(cpu: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    errors, failures = check_silu(cpu, correct("silu"))
    assert not failures
    assert 0 < errors["silu"]["exact"] < 1e-6 < errors["silu"]["float16"] < 2e-3
    assert "limit" in capsys.readouterr().out
    assert "TF32" not in errors["silu"]


@pytest.mark.parametrize("kernel", [unwritten, wrong_gradient])
def test_a_wrong_kernel_is_found(cpu: Backend, kernel: Callable[..., Any]) -> None:
    _, failures = check_silu(cpu, kernel)
    assert any("silu" in f and "above" in f for f in failures)


def test_a_kernel_that_never_serves_is_found(cpu: Backend) -> None:
    errors, failures = check_silu(cpu, lambda *arrays, **options: NotImplemented)
    assert failures == ["silu"]
    assert not errors


def test_a_kernel_that_raises_is_a_failure_and_the_rest_goes_on(cpu: Backend) -> None:
    def broken(*arrays: Any, **options: Any) -> Any:
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS\nmore")

    _, failures = check_silu(cpu, broken)
    assert len(failures) == 3 + 1  # dtypes, and that it never ran
    assert failures[0].endswith("RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS")


def test_noise_with_one_wrong_bit_is_found(cpu: Backend) -> None:
    from minidiff.philox import RULES

    def off(backend: Any, *arguments: Any) -> Any:
        x = RULES["random_normal"](backend, *arguments)
        return np.nextafter(x, x + np.asarray(1, x.dtype))

    for draw, failed in ((RULES["random_normal"], 0), (off, 12)):
        bench = bench_on(replace(cpu, kernels={"random_normal": draw, "random_words": RULES["random_words"]}))
        right = gpu_checks._Checks(bench, bench.device.backend).noise()
        assert (right, len(bench.failures)) == (16 - failed, failed)


def test_wrong_optimizers_are_found(cpu: Backend) -> None:
    from minidiff.optim import rules

    def adam_all(xp: Any, rows: Any, *, factor: float = 1.0, **options: Any) -> Any:
        new = [rules.adam(xp, *row, **options) for row in rows]
        return [(p * np.asarray(factor, p.dtype), m, v) for p, m, v in new]

    def late(xp: Any, rows: Any, **options: Any) -> Any:
        return adam_all(xp, rows, factor=1.05, **options)

    for kernel, wrong in ((adam_all, False), (late, True)):
        bench = bench_on(replace(cpu, kernels={"adam_all": kernel}))
        checks = gpu_checks._Checks(bench, bench.device.backend)
        assert list(checks.optimizers()) == ["adam_all"]
        assert checks.ran == {"adam_all"}
        assert bool(bench.failures) is wrong


def test_all_checks_on_the_emulator(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        backend = simt.backend()
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    served = [c for c in CASES if c.op in backend.kernels]
    first, last = ({c.op: c for c in order} for order in (reversed(served), served))
    monkeypatch.setattr(gpu_checks, "CASES", (*first.values(), *last.values()))
    monkeypatch.setattr(gpu_checks, "DRAWS", (5,))
    bench = bench_on(backend, replace(TINY, batches=(1,)))
    monkeypatch.setattr(Bench, "shapes", lambda self: self.normalizations() + self.attentions())
    figures = json.loads(json.dumps(gpu_checks.measure_checks(bench)))
    assert bench.failures == []
    assert figures["never ran"] == []
    assert figures["draws"] == 4
    assert figures["images"]["exact"] <= 1e-3
    assert set(figures["network"]["gradient"]) == set(gpu_checks.MODES)
    assert {"conv2d", "embedding", "softmax"} <= set(figures["conformance"])
    printed = capsys.readouterr().out
    assert "draws equal to the CPU's, bit for bit: 4 of 4" in printed
    assert f"{figures['conformance']['conv2d']['TF32']:.1e}" in printed
    assert get_backend("simt") is backend


def test_cases_take_turns() -> None:
    a, b = case("silu", normal(1)), case("silu", normal(2))
    c = case("relu", normal(1))
    assert list(gpu_checks._in_turns([a, b, c])) == [a, c, b]


# --- times -----------------------------------------------------------------------------------------------


class Scripted(FakeDevice):
    """A device whose calls take the seconds that their work says."""

    def __init__(self) -> None:
        super().__init__(get_backend("cpu"))
        self.now = 0.0

    def work(self, seconds: float, result: Any = 1.0, log: list[Any] | None = None) -> Work:
        def run(*arguments: Any) -> Any:
            self.now += seconds
            if log is not None:
                log.append(arguments)
            return result

        return Work(run)

    def elapsed(self, run: Callable[[], object], hold: float = 0.0) -> float:
        self.holds.append(hold)
        before = self.now
        run()
        return self.now - before

    def interleave(self, works: dict[str, Work], **options: Any) -> gpu_timing.Times:
        settings: dict[str, Any] = {
            "needed": "a", "rounds": 3, "least": 1.0, "ahead": False, "limit": 1e-2, "budget": Budget(60)
        }  # fmt: skip
        to_host = dict.fromkeys(works, np.asarray)
        return interleave(self, works, to_host, **{**settings, **options})


def test_speed_is_the_others_time_in_parts_of_ours() -> None:
    device = Scripted()
    times = device.interleave({"a": device.work(0.25), "b": device.work(0.5)})
    assert times.seconds == {"a": [0.25] * 3, "b": [0.5] * 3}
    assert times.speed("b") == (2.0, 2.0, 2.0)
    assert times.describe()["ms"]["a"]["median"] == 250
    assert times.describe()["speed to"]["b"]["median"] == 2


def test_a_sample_has_calls_for_its_length_and_rotates_inputs() -> None:
    device, log = Scripted(), list[Any]()
    sets = gpu_timing.rotating([(0,), (1,), (2,)])
    work = replace(device.work(0.25, log=log), prepare=sets)
    device.interleave({"a": work}, rounds=1)
    assert len(log) == 1 + 2 + 4  # compared, two that warm up, a second's worth
    assert sorted(x for (x,) in log[3:]) == [0, 0, 1, 2]
    short = device.work(1e-6, log=(calls := []))
    device.interleave({"a": short}, rounds=1)
    assert len(calls) == 3 + gpu_timing.MOST_CALLS


def test_the_device_is_held_back_only_where_the_host_is_to_run_ahead() -> None:
    device = Scripted()
    device.interleave({"a": device.work(0.5)})
    assert set(device.holds) == {0.0}
    device.holds.clear()
    device.interleave({"a": device.work(0.5)}, ahead=True)
    assert all(0 < hold <= gpu_timing.LONGEST_HOLD for hold in device.holds[2:])


def test_wrong_results_are_not_timed() -> None:
    device = Scripted()
    y = np.linspace(1, 2, 9)
    device.interleave({"a": device.work(1, y), "b": device.work(1, y * 1.005)})
    with pytest.raises(ArithmeticError, match=r"differ from those of b by 2\.0e-02, above 1e-02; not timed"):
        device.interleave({"a": device.work(1, y), "b": device.work(1, y * 1.02)})
    with pytest.raises(ArithmeticError, match="differ"):
        device.interleave({"a": device.work(1, y), "b": device.work(1, np.where(y > 1.9, np.nan, y))})


def test_another_party_may_fail() -> None:
    device = Scripted()

    def fails() -> Any:
        raise RuntimeError("no Triton\nbecause")

    times = device.interleave({"c": Work(fails), "a": device.work(1.0), "b": Work(fails)})
    assert times.first == "a"
    assert times.dropped == {"c": "RuntimeError: no Triton", "b": "RuntimeError: no Triton"}
    with pytest.raises(RuntimeError, match="no Triton"):
        device.interleave({"a": Work(fails)})


def test_mappings_are_compared_as_one() -> None:
    device = Scripted()
    ours = {"w": np.asarray([4.0]), "b": np.asarray([0.0])}
    device.interleave(
        {"a": device.work(1, ours), "b": device.work(1, {"b": np.asarray([0.01]), "w": ours["w"]})}
    )


def test_relative_norm() -> None:
    assert relative(np.asarray([3.0, 4.5]), np.asarray([3.0, 4.0])) == 0.1
    assert relative(np.asarray([0.25]), np.asarray([0.0])) == 0.25  # a norm below 1 counts as 1
    with pytest.raises(ArithmeticError, match="shapes"):
        relative(np.zeros(2), np.zeros(3))


def test_rotating_inputs_do_not_fit_into_the_cache() -> None:
    device = FakeDevice(get_backend("cpu"))
    assert (sets_for(device, 1 << 12) - 1) << 12 >= gpu_timing.CACHES * device.cache_bytes
    assert sets_for(device, 1) == gpu_timing.MOST_CALLS
    assert sets_for(device, 1 << 40) == 2


def test_a_budget_is_shared_out() -> None:
    now = 0.0
    budget = Budget(100, lambda: now)
    budget.share(0.25)
    assert budget.left() == 25
    now = 5.0
    budget.share(1.0)
    assert budget.left() == 95


def test_what_takes_too_long_is_stopped_even_if_it_keeps_exceptions() -> None:
    def stubborn() -> None:
        while True:
            with suppress(Exception):
                sum(range(1000))

    with pytest.raises(OutOfTime), Budget(0.05).limit():
        stubborn()
    bench = bench_on(get_backend("cpu"))
    bench.budget = Budget(0.05)
    assert bench.attempt("long", stubborn) is None
    assert bench.attempt("later", lambda: 1) is None
    assert bench.left_out == ["long (begun)", "later"]
    assert bench.failures == []


# --- amounts ---------------------------------------------------------------------------------------------


def test_operations_and_bytes() -> None:
    conv = case("conv2d", normal(2, 3, 8, 8), normal(5, 3, 3, 3), normal(5), stride=2, padding=1)
    result = gpu_sections._result_shape(conv)
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
    assert activation_bytes(cpu, 8, 8) > 4 * 8 * 8 * 8


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
    rows = gpu_sections.measure_compiled(bench)
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


# --- the seam --------------------------------------------------------------------------------------------


def fake_cupy(monkeypatch: pytest.MonkeyPatch, diary: list[Any]) -> gpu_device.CudaDevice:
    """A device of a CuPy that writes down what it is asked for."""
    free = iter((900, 400))

    class Event:
        def record(self) -> None:
            diary.append("event")

        def synchronize(self) -> None:
            diary.append("wait")

    properties = {
        "name": b"NVIDIA H200", "l2CacheSize": 6e7, "major": 9, "minor": 0, "multiProcessorCount": 132,
        "totalGlobalMem": 15e10,
    }  # fmt: skip
    runtime = SimpleNamespace(
        getDeviceProperties=lambda number: properties,
        memGetInfo=lambda: (next(free), 1000),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 12090,
    )
    cuda = SimpleNamespace(
        runtime=runtime,
        Device=lambda: SimpleNamespace(id=0),
        Event=Event,
        get_elapsed_time=lambda a, b: 250.0,
    )
    cupy = SimpleNamespace(
        cuda=cuda,
        __version__="14.2.0",
        RawKernel=lambda code, name: lambda grid, block, arguments: diary.append(arguments[0]),
        get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: diary.append("free")),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(gpu_device, "get_backend", lambda device: get_backend("cpu"))
    monkeypatch.setattr(nvrtc, "version", lambda: (12, 9))
    return gpu_device.CudaDevice()


def test_events_enclose_the_work_and_the_hold_comes_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    diary: list[Any] = []
    device = fake_cupy(monkeypatch, diary)
    assert device.elapsed(lambda: diary.append("work"), hold=0.002) == 0.25
    assert diary == [2_000_000, "event", "work", "event", "wait"]
    assert diary[0].dtype == np.uint64
    diary.clear()
    device.elapsed(lambda: diary.append("work"))
    assert diary == ["event", "work", "event", "wait"]


def test_peak_and_description(monkeypatch: pytest.MonkeyPatch) -> None:
    diary: list[Any] = []
    device = fake_cupy(monkeypatch, diary)
    assert device.peak_bytes(lambda: diary.append("work")) == 500
    assert diary == ["free", "work"]
    about = device.describe()
    assert (about["gpu"], about["compute capability"], about["CUDA runtime"]) == (
        "NVIDIA H200",
        "9.0",
        "12.9",
    )
    assert about["NVRTC"] == "12.9"
    assert about["driver"].endswith("CUDA 13.0") or about["driver"].endswith("(CUDA 13.0)")
