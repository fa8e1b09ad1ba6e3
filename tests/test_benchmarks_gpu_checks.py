"""The checks of the GPU's benchmark, without a GPU: they find planted bugs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_checks
from benchmarks.gpu_bench import Bench
from minidiff.backend import Backend, BackendUnavailable, get_backend, register_backend
from minidiff.testing import CASES
from minidiff.testing.case import case, normal
from tests import simt
from tests.gpu_fakes import TINY, bench_on


@pytest.fixture
def cpu() -> Iterator[Backend]:
    backend = get_backend("cpu")
    yield backend
    register_backend(backend)


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
