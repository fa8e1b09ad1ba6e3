"""The public testing tools: that they measure, and above all that they find what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minidiff import Parameter, ops
from minidiff.autodiff import op
from minidiff.backend import Backend, get_backend, register_backend
from minidiff.testing import (
    CASES,
    Errors,
    check_backend,
    check_case,
    check_gradient,
    load_backend,
    without_kernels,
)
from minidiff.testing.__main__ import main
from minidiff.testing.case import case, labels, normal, positive
from minidiff.testing.conformance import check_crossing

A = np.random.default_rng(0).uniform(0.5, 2, (3, 4))
EXP = case("exp", normal(3, 4))


@pytest.fixture
def with_kernel() -> Iterator[Callable[..., Backend]]:
    """Give the CPU one kernel, by its op's name, for the length of a test."""
    cpu = get_backend("cpu")

    def register(**kernels: Any) -> Backend:
        backend = replace(cpu, kernels=kernels)
        register_backend(backend)
        return backend

    yield register
    register_backend(cpu)


# --- check_gradient --------------------------------------------------------------------------------------


@op
def wrong_factor(xp: Any, x: Any, /) -> Any:
    return xp.exp(x), lambda dy: (dy * xp.exp(x) * 1.00001,)


@op
def wrong_element(xp: Any, x: Any, /) -> Any:
    def vjp(dy: Any) -> Any:
        dx = dy * xp.exp(x)
        dx[-1, -1] = 0
        return (dx,)

    return xp.exp(x), vjp


@op
def wrong_shape(xp: Any, x: Any, /) -> Any:
    return xp.sum(x, axis=0), lambda dy: (dy,)


@op
def wrong_sign_of_the_second(xp: Any, x: Any, y: Any, /) -> Any:
    return x - y, lambda dy: (dy, dy)


@pytest.mark.parametrize("fn", [wrong_factor, wrong_element])
def test_a_wrong_gradient_is_found(fn: Any) -> None:
    with pytest.raises(AssertionError, match=r"argument 0: derivative .*, by central differences "):
        check_gradient(fn, A)


def test_a_gradient_of_a_wrong_shape_is_found() -> None:
    with pytest.raises(AssertionError, match=r"argument 0 has shape \(3, 4\), its gradient \(4,\)"):
        check_gradient(wrong_shape, A)


def test_every_argument_is_looked_at() -> None:
    with pytest.raises(AssertionError, match="argument 1"):
        check_gradient(wrong_sign_of_the_second, A, A)


def test_a_right_gradient_passes(backend: Backend) -> None:
    error = check_gradient(
        lambda x, n, i: ops.take(x * n, i, axis=0), A, 2.0, np.asarray([0, 0]), backend=backend
    )
    assert error < 1e-8


def test_parameters_are_differentiated_too() -> None:
    w = Parameter(A.copy())
    assert check_gradient(lambda x: ops.matmul(x, ops.exp(w)), A.T, parameters={"w": w}) < 1e-8
    np.testing.assert_array_equal(w.data, A)
    with pytest.raises(AssertionError, match="w: derivative"):
        check_gradient(lambda: wrong_factor(w), parameters={"w": w})


def test_float32_parameters_are_refused() -> None:
    w = Parameter(A.astype(np.float32))
    with pytest.raises(AssertionError, match="w is float32: use float64"):
        check_gradient(lambda: ops.exp(w), parameters={"w": w})


def test_several_results_are_looked_at() -> None:
    check_gradient(lambda x: ops.unstack(x), A)
    with pytest.raises(AssertionError, match="derivative"):
        check_gradient(lambda x: (ops.exp(x), wrong_factor(x)), A)


# --- check_case ------------------------------------------------------------------------------------------


def exp(xp: Any, x: Any) -> Any:
    y = xp.exp(x)
    return y, lambda dy: (dy * y,)


def declining_half(kernel: Any) -> Any:
    """What most kernels do: float16 and bfloat16 are left to the generic rule."""
    return lambda xp, x: kernel(xp, x) if x.dtype in (xp.float32, xp.float64) else NotImplemented


def slightly_off(xp: Any, x: Any) -> Any:
    y, vjp = exp(xp, x)
    return y * (1 + 1e-4), vjp


def off_in_float64(xp: Any, x: Any) -> Any:
    y, vjp = exp(xp, x)
    return y * (1 + 1e-8), vjp


def wrong_gradient(xp: Any, x: Any) -> Any:
    y, _ = exp(xp, x)
    return y, lambda dy: (dy * y * (1 + 1e-7),)


def promoting(xp: Any, x: Any) -> Any:
    y, vjp = exp(xp, x)
    return y * np.float64(1), vjp


def flat(xp: Any, x: Any) -> Any:
    y = xp.reshape(xp.exp(x), (-1,))
    return y, lambda dy: (xp.reshape(dy * y, x.shape),)


def not_a_number(xp: Any, x: Any) -> Any:
    y, vjp = exp(xp, x)
    return y * np.nan, vjp


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (slightly_off, r"exp\(3x4\) on cpu: float32 result is off by 1.0e-04, above 1e-05"),
        (off_in_float64, "result of the float64 kernel is off by 1.0e-08, above 1e-10"),
        (wrong_gradient, "gradient 0 of the float64 kernel is off by .*e-07"),
        (promoting, "result is {'float64'}"),
        (flat, r"has shape \(12,\), expected \(3, 4\)"),
        (not_a_number, "off by inf"),
    ],
)
def test_a_wrong_kernel_is_found(with_kernel: Any, kernel: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_case(with_kernel(exp=declining_half(kernel)), EXP)


def test_a_right_kernel_passes_and_is_counted(with_kernel: Any) -> None:
    errors = check_case(with_kernel(exp=exp), EXP)
    assert errors.served == 2  # in float32 and in float64
    assert 0 <= errors.kernel < 1
    assert 0 < errors.forward < 1e-6
    assert 0 < errors.gradient < 1e-8


def test_a_kernel_that_declines_is_not_counted(with_kernel: Any) -> None:
    assert check_case(with_kernel(exp=lambda xp, x: NotImplemented), EXP).served == 0


def test_a_kernel_that_writes_to_its_input_is_found(with_kernel: Any) -> None:
    def kernel(xp: Any, x: Any) -> Any:
        x += 0
        return exp(xp, x)

    with pytest.raises(ValueError, match="read-only"):
        check_case(with_kernel(exp=kernel), EXP)


def test_a_kernel_that_writes_to_the_incoming_gradient_is_found(with_kernel: Any) -> None:
    def kernel(xp: Any, x: Any) -> Any:
        y, _ = exp(xp, x)

        def vjp(dy: Any) -> Any:
            dy *= y
            return (dy,)

        return y, vjp

    with pytest.raises(ValueError, match="read-only"):
        check_case(with_kernel(exp=kernel), EXP)


def test_writing_is_found_where_arrays_cannot_be_locked() -> None:
    pytest.importorskip("torch")
    torch = load_backend("torch")

    def to_input(xp: Any, x: Any) -> Any:
        x += 1
        return exp(xp, x)

    def to_gradient(xp: Any, x: Any) -> Any:
        y, _ = exp(xp, x)
        return y, lambda dy: (dy.mul_(y),)

    try:
        for kernel, what in ((to_input, "an input"), (to_gradient, "an incoming gradient")):
            backend = replace(torch, kernels={"exp": kernel})
            register_backend(backend)
            with pytest.raises(AssertionError, match=f"{what} was written to"):
                check_case(backend, EXP)
    finally:
        register_backend(torch)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "channels last"])
def test_a_layout_is_what_it_says(backend: Backend, layout: str) -> None:
    from minidiff.testing.arrays import lay

    host = np.arange(24.0).reshape(1, 2, 3, 4)
    x = lay(backend, host, "float32", layout)
    np.testing.assert_array_equal(backend.to_numpy(x), host)
    if isinstance(x, np.ndarray):
        expected = {
            "contiguous": (96, 48, 16, 4),
            "transposed": (4, 4, 8, 24),
            "strided": (192, 96, 32, 8),
            "channels last": (96, 4, 32, 8),
        }
        assert x.strides == expected[layout]
        assert not x.flags.writeable


def test_cases_are_the_same_numbers_every_time() -> None:
    first, second = (case("take", normal(2, 3), labels(3, 4), axis=1).hosts() for _ in range(2))
    assert first[0].dtype == np.float64
    assert first[1].dtype == np.int64
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], case("exp", normal(2, 3)).hosts()[0])
    assert (
        str(case("add", positive(2, 3), 1.5, layout="strided", note="x"))
        == "add(positive 2x3, 1.5) [x] [strided]"
    )


# --- check_backend ---------------------------------------------------------------------------------------


def test_a_backend_is_measured() -> None:
    errors = check_backend("cpu", cases=[EXP, case("exp", normal(2)), case("sum", normal(2))])
    assert set(errors) == {"exp", "sum"}
    assert isinstance(errors["exp"], Errors)
    assert errors["exp"].forward < 1e-6


def test_the_failing_case_is_named(with_kernel: Any) -> None:
    backend = with_kernel(exp=slightly_off)
    with pytest.raises(AssertionError) as caught:
        check_backend(backend, cases=[EXP])
    assert caught.value.__notes__ == ["in the case exp(3x4)"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"from_numpy": lambda host: host.astype(np.float64)}, "float32 became float64"),
        ({"from_numpy": lambda host: np.ascontiguousarray(host)}, r"came back as float64 \(1,\)"),
        ({"to_numpy": lambda x: x.tolist()}, "to_numpy made a list"),
        ({"to_numpy": lambda x: x[::-1] if x.ndim else x}, "came back"),
        ({"from_numpy": lambda host: host.tolist()}, "from_numpy made a list"),
    ],
)
def test_a_wrong_crossing_is_found(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_crossing(replace(get_backend("cpu"), **fault))


def test_crossing_brings_everything_back(backend: Backend) -> None:
    check_crossing(backend)


def test_without_kernels_ends(with_kernel: Any) -> None:
    backend = with_kernel(exp=slightly_off)
    right = np.exp(A)
    with without_kernels(backend):
        np.testing.assert_array_equal(ops.exp(A), right)
    assert not np.array_equal(ops.exp(A), right)


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--devices", "cpu"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| function | cases | NumPy |"
    rows = [line.split("|")[1].strip() for line in printed if line.startswith("| `")]
    assert rows == [f"`{name}`" for name in dict.fromkeys(c.op for c in CASES)]


def test_the_command_leaves_out_what_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["--devices", "torch,cuda"]) == 0
    printed = capsys.readouterr().out
    assert "PyTorch arrays is left out: torch: import of torch halted" in printed
    assert "CuPy is left out: " in printed  # for want of a driver, or of CuPy


def test_the_command_fails_where_a_case_fails(capsys: pytest.CaptureFixture[str], with_kernel: Any) -> None:
    with_kernel(exp=slightly_off)
    assert main(["--devices", "cpu"]) == 1
    assert "cpu: exp(2x3) on cpu: float32 result is off" in capsys.readouterr().out


def test_the_command_refuses_an_unknown_device(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--devices", "abacus"])
    assert caught.value.code == 2
    assert "unknown device 'abacus'; installed backends offer" in capsys.readouterr().err
