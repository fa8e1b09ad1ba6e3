"""The emulator complains where a GPU would be silent, or would answer with an error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from minidiff_cupy import sources
from tests import simt
from tests.simt import namespace as xp
from tests.simt.emulator import Emulator
from tests.simt.probes import FULL, emulator_in, kernel, run
from tests.simt.translation import translate


@pytest.fixture(params=simt.SCHEDULES)
def emulator(request: pytest.FixtureRequest, tmp_path: Path) -> Emulator:
    return emulator_in(tmp_path, request.param)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("if (threadIdx.x < 32) {\n__syncthreads();\n}\nelse __syncthreads();", "divergent __syncthreads"),
        (
            f"if (threadIdx.x % 2) __shfl_sync({FULL}, 1, 0);\nelse __shfl_sync({FULL}, 1, 1);",
            r"k\.cu:[23], .*divergent",
        ),
        (
            "if (threadIdx.x == 40)\n__syncwarp();\nelse __syncthreads();",
            r"(?s)deadlock in block \(0, 0, 0\).*k\.cu:\d",
        ),
        ("if (threadIdx.x < 16) __shfl_sync(0xff00u, 1, 8);", r"lane \d+ is not in the mask 0000ff00"),
    ],
)
def test_threads_that_do_not_meet(emulator: Emulator, body: str, complaint: str) -> None:
    with pytest.raises(simt.EmulatorError, match=complaint):
        run(emulator, body)
    np.testing.assert_array_equal(
        run(emulator, "__syncthreads(); y[threadIdx.x] = 1;"), 1
    )  # and all is well again


def test_a_deadlock_names_threads_and_lines(emulator: Emulator) -> None:
    with pytest.raises(simt.EmulatorError) as caught:
        run(emulator, f"if (threadIdx.x == 7)\n__shfl_sync({FULL}, 1, 0);\nelse __syncthreads();")
    assert "k.cu, k: deadlock in block (0, 0, 0)" in str(caught.value)
    assert "thread 7 waits for __shfl_sync at k.cu:3" in str(caught.value)
    assert "thread 0 waits for __syncthreads at k.cu:4" in str(caught.value)
    assert "64 of 64 threads have not ended" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("\n*(float2*)(y + 1) = {0, 0};", "address .* is not a multiple of 8"),
        ("\nfloat a[4] = {}; y[0] = a[threadIdx.x];", "an index outside of its array"),
        ("\ny[0] = 1 << threadIdx.x;", "a shift by"),
        ("\ny[0] = 1 % threadIdx.x;", "divided by 0"),
        ("\ny[0] = 2147483647 + (int)threadIdx.x;", "a sum of integers that overflows"),
        ("\ny[0] = 65536 * (65536 - (int)threadIdx.x);", "a product of integers that overflows"),
        ("\nfloat* z = threadIdx.x == 5 ? nullptr : y; *z = 1;", "thread 5: a null pointer"),
    ],
)
def test_undefined_behaviour(emulator: Emulator, body: str, complaint: str) -> None:
    with pytest.raises(simt.EmulatorError, match=rf"k\.cu:3, block \(0, 0, 0\), .*{complaint}"):
        run(emulator, body)


def test_launches_that_a_gpu_refuses(emulator: Emulator) -> None:
    f = kernel(emulator, "y[0] = n;", parameters="float* y, int n")
    y, n = xp.empty(1, dtype=np.float32), np.int32(1)
    for launch, complaint in {
        ((0,), (1,)): r"a grid of \(0,\)",
        ((1, 65536), (1,)): "a grid of",
        ((1.0,), (1,)): "a grid of",
        ((1,), (1025,)): "a block of",
        ((1,), (32, 32, 2)): "1024 is the most",
    }.items():
        with pytest.raises(simt.EmulatorError, match=complaint):
            f(*launch, (y, n))
    with pytest.raises(simt.EmulatorError, match="dynamic shared memory"):
        f((1,), (1,), (y, n), shared_mem=1 << 20)


def test_arguments_that_a_gpu_would_take_for_something_else(emulator: Emulator) -> None:
    f = kernel(emulator, "y[0] = n;", parameters="float* y, int n")
    y, n = xp.empty(1, dtype=np.float32), np.int32(1)
    for arguments, complaint in [
        ((y,), "1 arguments for 2 parameters"),
        ((y, 1), "argument 1 is a int, the parameter 'int32'"),
        ((y, np.int64(1)), "argument 1 is int64 of 8 bytes, the parameter int32 of 4"),
        ((y, np.float32(1)), "argument 1 is float32"),
        ((y, y), "argument 1 is a SimtArray"),
        ((xp.empty(1, dtype=np.float16), n), r"argument 0 is float16, the parameter float32\*"),
        ((np.empty(1, np.float32), n), "argument 0 is a ndarray"),
        ((n, n), "argument 0 is a int32"),
    ]:
        with pytest.raises(simt.EmulatorError, match=complaint):
            f((1,), (1,), arguments)


def test_structs_null_pointers_and_every_type(emulator: Emulator) -> None:
    body = """
        y[0] = p.a + p.b + (nothing == nullptr) + d + (flag ? h[0].bits : 0) + (float)big / (1ull << 40) + v[0].w;"""
    parameters = (
        "float* y, struct Pair p, const int* nothing, double d, bool flag, half* h, bfloat16* b, "
        "unsigned long long big, const float4* v"
    )
    f_text = f"struct Pair {{ int a; float b; }};\n__global__ void k({parameters}) {{{body}}}\n"
    (emulator.folder / "k.cu").write_text('#include "numbers.cuh"\n' + f_text)
    sources.read.cache_clear()
    pair = np.void(np.array([(3, 0.5)], [("a", "i4"), ("b", "f4")])[0])
    h, b = xp.zeros(1, dtype=np.float16), xp.zeros(1, dtype=xp.bfloat16)
    h.view(np.ndarray).view(np.uint16)[0] = 7
    v, y = xp.asarray([0, 0, 0, 0.25], dtype=np.float32), xp.empty(1, dtype=np.float32)
    arguments = (y, pair, None, np.float64(2), np.bool_(True), h, b, np.uint64(1 << 41), v)
    emulator.load("k.cu", "k", ())((1,), (1,), arguments)
    assert y.view(np.ndarray)[0] == 3 + 0.5 + 1 + 2 + 7 + 2 + 0.25


def test_launch_bounds(emulator: Emulator) -> None:
    text = "template <int N> __global__ void __launch_bounds__(N * 32, 1) k(float* y) { y[threadIdx.x] = N; }"
    (emulator.folder / "k.cu").write_text(text)
    sources.read.cache_clear()
    y = xp.empty(128, dtype=np.float32)
    with pytest.raises(simt.EmulatorError, match="a block of 128 threads, above the 64 of __launch_bounds__"):
        emulator.load("k.cu", "k<2>", ())((1,), (128,), (y,))
    emulator.load("k.cu", "k<4>", ())((1,), (128,), (y,))


def test_a_kernel_that_does_not_compile(emulator: Emulator) -> None:
    with pytest.raises(simt.EmulatorError, match=r"(?s)failed.*k\.cu:2:.*nonsense"):
        run(emulator, "nonsense;")


def test_products_are_fused_with_sums_unless_forbidden(emulator: Emulator) -> None:
    body = "float a = 1 + y[0], b = 1 - y[0], c = 1; y[0] = a * b - c;"
    small, fused = np.float32(2.0**-13), np.float32(-(2.0**-26))
    results = []
    for options in ((), ("--fmad=false",)):
        y = xp.asarray([small])
        kernel(emulator, body, options=options)((1,), (1,), (y,))
        results.append(float(y[0]))
    assert results[1] == 0
    if emulator_fuses():
        assert results[0] == fused


def emulator_fuses() -> bool:
    from tests.simt.emulator import _machine_flags

    return bool(_machine_flags()) or os.uname().machine == "aarch64"


@pytest.mark.parametrize(
    "declaration",
    [
        "__shared__ float a[2][3];",
        "__shared__ Pair<float, 4> a;",
        "__shared__ unsigned char a[N];",
        "__shared__ __align__(16) float a[4];",
        "__shared__ alignas(16) float a[4];",
        "extern __shared__ float a[];",
        "extern __shared__ __align__(16) unsigned char a[];",
        "extern __shared__ uint4 a[];",
    ],
)
def test_shared_variables_are_translated(declaration: str) -> None:
    text = translate(f"before\n{declaration}\nafter")
    assert "__shared__" not in text
    assert text.count("\n") == 2


def test_two_variables_in_one_statement_do_not_compile(emulator: Emulator) -> None:
    with pytest.raises(simt.EmulatorError, match="__shared__"):
        run(emulator, "__shared__ float a[4], b[4];")
