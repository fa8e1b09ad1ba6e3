"""The clock of the GPU's benchmark, with a fake; and what is asked of CuPy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_device, gpu_timing
from benchmarks.gpu_timing import Budget, OutOfTime, interleave, relative, sets_for
from benchmarks.interleave import Work
from minidiff.backend import get_backend
from minidiff_cupy import nvrtc
from tests.gpu_fakes import FakeDevice, bench_on

ROOT = Path(__file__).parent.parent


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


def test_a_kernel_that_never_ends_ends_the_process() -> None:
    code = (
        "import signal, time; from benchmarks import gpu_timing; gpu_timing.GRACE = 0.2\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"  # as no handler runs inside a C function
        "with gpu_timing.Budget(0.1).limit(): time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert '"<string>", line 3' in done.stderr


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
