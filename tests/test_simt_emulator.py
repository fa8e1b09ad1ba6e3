"""The emulator behaves as a GPU does where that is defined, and complains where a GPU would be silent."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidiff_cupy import sources
from tests import simt
from tests.simt import mutate
from tests.simt import namespace as xp
from tests.simt.emulator import Emulator, sanitized
from tests.simt.translation import translate

ROOT = Path(__file__).parent.parent
FULL = "0xffffffffu"
NUMBERS = (sources.FOLDER / "numbers.cuh").read_text()


@pytest.fixture(params=simt.SCHEDULES)
def emulator(request: pytest.FixtureRequest, tmp_path: Path) -> Emulator:
    """An emulator of its own for kernels that a test writes."""
    simt.backend()
    made = Emulator(tmp_path)
    made.schedule = request.param
    (tmp_path / "numbers.cuh").write_text(NUMBERS)
    return made


def kernel(
    emulator: Emulator, body: str, *, parameters: str = "float* y", options: Any = ()
) -> Callable[..., None]:
    """`body` as a kernel; lines count from 2."""
    text = f'#include "numbers.cuh"\n__global__ void k({parameters}) {{{body}}}\n'
    (emulator.folder / "k.cu").write_text(text)
    sources.read.cache_clear()
    emulator._kernels.clear()
    return emulator.load("k.cu", "k", tuple(options))


def run(
    emulator: Emulator, body: str, *, threads: int = 64, blocks: int = 1, shared: int = 0, **more: Any
) -> Any:
    """The array `y`, which has a number for each thread, after a launch."""
    y = xp.empty(threads * blocks, dtype=np.float32)
    kernel(emulator, body, **more)((blocks,), (threads,), (y,), shared_mem=shared)
    return y.view(np.ndarray)


# --- threads ---------------------------------------------------------------------------------------------


def test_every_thread_of_every_block_runs_once_and_knows_who_it_is(emulator: Emulator) -> None:
    body = """
        long long i = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        long long b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        n[b * blockDim.x * blockDim.y * blockDim.z + i] += 1 + i + 1000 * b;"""
    n = xp.zeros(5 * 3 * 2 * 7 * 2 * 3, dtype=np.int32)
    kernel(emulator, body, parameters="int* n")((7, 2, 3), (5, 3, 2), (n,))
    expected = 1 + np.arange(30) + 1000 * np.arange(42)[:, None]
    np.testing.assert_array_equal(n.view(np.ndarray).reshape(42, 30), expected)


def test_a_barrier_separates_writers_from_readers(emulator: Emulator) -> None:
    body = """
        __shared__ float at[96];
        at[threadIdx.x] = threadIdx.x;
        __syncthreads();
        y[threadIdx.x] = at[95 - threadIdx.x];"""
    np.testing.assert_array_equal(run(emulator, body, threads=96), np.arange(95, -1, -1))


def test_without_the_barrier_every_schedule_shows_a_wrong_number(emulator: Emulator) -> None:
    body = """
        __shared__ float at[96];
        at[threadIdx.x] = threadIdx.x;
        y[threadIdx.x] = at[95 - threadIdx.x];"""
    assert np.isnan(run(emulator, body, threads=96)).any()


def test_some_schedule_shows_a_missing_barrier_after_reading(tmp_path: Path) -> None:
    body = """
        __shared__ float at[96];
        float next = 0;
        for (int i = 0; i < 3; ++i) {
            at[threadIdx.x] = threadIdx.x + i;
            __syncthreads();
            next += at[(threadIdx.x + 1) % 96];
        }
        y[threadIdx.x] = next;"""
    right = 3 * ((np.arange(96) + 1) % 96) + 3
    (tmp_path / "numbers.cuh").write_text(NUMBERS)
    wrong = []
    for schedule in simt.SCHEDULES:
        emulator = Emulator(tmp_path)
        emulator.schedule = schedule
        wrong.append((run(emulator, body, threads=96) != right).any())
    assert any(wrong)


def test_threads_that_ended_are_not_waited_for(emulator: Emulator) -> None:
    body = """
        y[threadIdx.x] = -1;
        if (threadIdx.x % 3 == 1) return;
        __syncthreads();
        float sum = __shfl_xor_sync(0xffffffffu, 1.0f * threadIdx.x, 32 % 32);
        __syncthreads();
        y[threadIdx.x] = sum;"""
    i = np.arange(64)
    np.testing.assert_array_equal(run(emulator, body), np.where(i % 3 == 1, -1, i))


def test_block_votes(emulator: Emulator) -> None:
    body = """
        int t = threadIdx.x;
        int count = __syncthreads_count(t % 4 == 0);
        bool any = __syncthreads_or(t == 63), none = __syncthreads_or(t > 63);
        bool all = __syncthreads_and(t < 64), not_all = __syncthreads_and(t < 63);
        y[t] = count + 100 * any + 1000 * none + 10000 * all + 100000 * not_all;"""
    np.testing.assert_array_equal(run(emulator, body), 10116)


def test_a_warpgroup_waits_for_its_own_128_threads(emulator: Emulator) -> None:
    body = """
        __shared__ float at[256];
        at[threadIdx.x] = threadIdx.x;
        if (threadIdx.x < 128) simt::warpgroup_barrier(SIMT_HERE);
        else simt::warpgroup_barrier(SIMT_HERE);
        y[threadIdx.x] = at[threadIdx.x ^ 127];"""
    np.testing.assert_array_equal(run(emulator, body, threads=256), np.arange(256) ^ 127)


# --- warps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [32, 16, 4])
@pytest.mark.parametrize("distance", [0, 1, 3, 15])
def test_shuffles(emulator: Emulator, width: int, distance: int) -> None:
    sources_of = {
        "__shfl_sync": lambda i, part: part + distance % width,
        "__shfl_xor_sync": lambda i, part: np.where(((i ^ distance) & -width) <= part, i ^ distance, i),
        "__shfl_down_sync": lambda i, part: np.where(i - part + distance < width, i + distance, i),
        "__shfl_up_sync": lambda i, part: np.where(i - part >= distance, i - distance, i),
    }
    calls = [f"y[n++ * 32 + threadIdx.x] = {name}({FULL}, 1.0f * threadIdx.x, d, w);" for name in sources_of]
    f = kernel(emulator, "int n = 0;" + "".join(calls), parameters="float* y, int d, int w")
    y, i = xp.empty((4, 32), dtype=np.float32), np.arange(32)
    f((1,), (32,), (y, np.int32(distance), np.int32(width)))
    np.testing.assert_array_equal(
        y.view(np.ndarray), [source(i, i & -width) for source in sources_of.values()]
    )


def test_votes_of_a_warp_and_of_parts_of_it(emulator: Emulator) -> None:
    body = """
        unsigned lane = threadIdx.x % 32, half_warp = lane < 16 ? 0x0000ffffu : 0xffff0000u;
        bool odd = lane % 2;
        unsigned votes = __ballot_sync(half_warp, odd);
        bool one = __any_sync(half_warp, lane == 3), all = __all_sync(half_warp, lane < 16);
        float sum = lane;
        for (int d = 8; d; d /= 2) sum += __shfl_xor_sync(half_warp, sum, d);
        __syncwarp(half_warp);
        y[threadIdx.x] = (votes == (0xaaaaaaaau & half_warp)) + 10 * one + 100 * all + 1000 * sum;"""
    np.testing.assert_array_equal(run(emulator, body), np.tile(np.repeat([120111, 376001], 16), 2))


def test_a_lane_that_is_not_there_has_poison_to_give(emulator: Emulator) -> None:
    y = run(emulator, f"y[threadIdx.x] = __shfl_xor_sync({FULL}, 1.0f, 16);", threads=40)
    np.testing.assert_array_equal(np.isnan(y), np.arange(40) >= 32)


def test_a_warp_barrier_orders_what_its_lanes_write(emulator: Emulator) -> None:
    body = """
        __shared__ float at[64];
        at[threadIdx.x] = threadIdx.x;
        __syncwarp();
        y[threadIdx.x] = at[threadIdx.x ^ 31];"""
    np.testing.assert_array_equal(run(emulator, body), np.arange(64) ^ 31)
    assert np.isnan(run(emulator, body.replace("__syncwarp();", ""))).any()


# --- memory ----------------------------------------------------------------------------------------------


def test_shared_memory_is_poisoned_for_every_block(emulator: Emulator) -> None:
    body = """
        __shared__ float one;
        __shared__ __align__(16) float many[2][3];
        extern __shared__ __align__(1024) float dynamic[];
        bool clean = one != one && many[1][2] != many[1][2] && dynamic[63] != dynamic[63];
        bool aligned = (size_t)many % 16 == 0 && (size_t)dynamic % 1024 == 0;
        __syncthreads();
        one = many[1][2] = dynamic[63] = 1;
        y[blockIdx.x * 64 + threadIdx.x] = clean + 2 * aligned;"""
    np.testing.assert_array_equal(run(emulator, body, blocks=3, shared=256), 3)


def test_a_copy_lands_at_its_wait_and_not_before(emulator: Emulator) -> None:
    body = """
        __shared__ __align__(16) float a[4];
        __shared__ __align__(16) float c[4];
        if (threadIdx.x) return;
        simt::copy_later(a, x, 16, 16, SIMT_HERE);
        simt::commit(simt::kCopies);
        simt::copy_later(c, x + 4, 8, 16, SIMT_HERE);
        simt::commit(simt::kCopies);
        y[0] = a[0];
        simt::wait(simt::kCopies, 1);
        y[1] = a[0];
        y[2] = c[0];
        simt::wait(simt::kCopies, 0);
        y[3] = c[1];
        y[4] = c[2];"""
    x, y = xp.arange(1, 9, dtype=np.float32), xp.empty(5, dtype=np.float32)
    kernel(emulator, body, parameters="float* y, const float* x")((1,), (32,), (y, x))
    np.testing.assert_array_equal(y.view(np.ndarray), [np.nan, 1, np.nan, 6, 0])


def test_a_copy_must_be_aligned(emulator: Emulator) -> None:
    body = "__shared__ __align__(16) float a[8]; simt::copy_later(a + 1, y, 16, 16, SIMT_HERE);"
    with pytest.raises(simt.EmulatorError, match=r"k\.cu:2, .* asynchronous copy of 16 bytes .* not aligned"):
        run(emulator, body)


def test_other_work_takes_effect_at_once_or_at_its_wait(emulator: Emulator) -> None:
    body = """
        float sum = 1, *p = &sum;
        simt::later(simt::kProducts, [=] { *p += 1; });
        simt::commit(simt::kProducts);
        float before = sum;
        simt::wait(simt::kProducts, 0);
        y[threadIdx.x] = 10 * sum + before;"""
    np.testing.assert_array_equal(run(emulator, body), 22 if emulator.schedule == "reverse" else 21)


# --- complaints ------------------------------------------------------------------------------------------


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


# --- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("type_", "dtype"), [("half", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_short_numbers_are_rounded_as_numpy_rounds_them(tmp_path: Path, type_: str, dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    finite = np.sort(every[np.isfinite(every)])
    between = (finite[:-1] / 2 + finite[1:] / 2).astype(np.float32)
    near = [np.nextafter(between, np.float32(v)) for v in (-np.inf, np.inf)]
    edges = np.array([65519.0, 65520.0, 3.4e38, -3.4e38, 1e-45, np.inf, -np.inf, np.nan, -0.0], np.float32)
    x = np.concatenate([every, between, *near, edges])
    emulator = Emulator(tmp_path)
    (tmp_path / "numbers.cuh").write_text(NUMBERS)
    body = (
        "long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return; "
        f"y[i] = to_float(from_float<{type_}>(x[i])); bits[i] = from_float<{type_}>(x[i]).bits;"
    )
    parameters = "float* y, unsigned short* bits, const float* x, long long n"
    y, bits = xp.empty(x.size, dtype=np.float32), xp.empty(x.size, dtype=np.uint16)
    f = kernel(emulator, body, parameters=parameters)
    f((-(-x.size // 256),), (256,), (y, bits, xp.asarray(x), np.int64(x.size)))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(dtype)
    np.testing.assert_array_equal(y.view(np.ndarray), expected.astype(np.float32))
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(bits.view(np.ndarray)[numbers], expected.view(np.uint16)[numbers])


# --- translation -----------------------------------------------------------------------------------------


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


# --- arrays ----------------------------------------------------------------------------------------------


def test_arrays_of_the_device_do_not_mix_with_the_hosts() -> None:
    backend = simt.backend()
    device, host = backend.from_numpy(np.ones((2, 3), np.float32)), np.ones((2, 3), np.float32)
    operations: list[Callable[[], Any]] = [
        lambda: device + host,
        lambda: host * device,
        lambda: xp.add(device, host),
        lambda: xp.concat([device, host]),
        lambda: xp.where(device > 0, device, host),
        lambda: device.__setitem__(..., host),
        lambda: device[host > 0],
        lambda: np.add(device, 1, out=host),
    ]
    for operation in operations:
        with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
            operation()


def test_what_comes_out_is_an_array_of_the_device() -> None:
    x = simt.backend().from_numpy(np.ones((2, 3), np.float32))
    made = [
        x + 1, 2 * x, x.sum(), x[0, 0], x[:, 1:], x.T, xp.sum(x), xp.mean(x, axis=0), xp.reshape(x, (3, 2)), -x,
        xp.zeros(3), xp.empty((2, 2)), xp.asarray([1, 2]), xp.astype(x, xp.bfloat16), x.astype(np.float16),
        xp.matmul(x, x.T), x @ x.T, xp.broadcast_to(x, (4, 2, 3)), x.mean(axis=1), xp.linalg.vecdot(x, x),
        *xp.meshgrid(x[0], x[0]), np.exp(x), x[x > 0], xp.var(x, axis=0), x.max(), xp.arange(3),
    ]  # fmt: skip
    assert [type(y) for y in made] == [simt.SimtArray] * len(made)
    x += 1
    assert float(x[0, 0]) == 2
    assert "2." in repr(x)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32", "uint8"])
def test_a_new_array_is_poisoned(dtype: str) -> None:
    for x in (xp.empty((2, 3), dtype=getattr(xp, dtype)), xp.empty((), dtype=getattr(xp, dtype))):
        assert set(x.view(np.ndarray).tobytes()) == {255}


# --- tools -----------------------------------------------------------------------------------------------

OUTSIDE = """
import sys
import numpy as np
sys.path[:0] = [{root!r}, {backends!r}]
from pathlib import Path
from tests.simt import namespace as xp
from tests.simt.emulator import Emulator
y = xp.empty(100, dtype=np.float32)
Emulator(Path({folder!r})).load("k.cu", "k", ())((1,), (64,), (y,), shared_mem=64)
"""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("y[threadIdx.x + 37] = 1;", "heap-buffer-overflow"),
        ("__shared__ float a[63];\nfloat* b = a; b[threadIdx.x] = 1; y[0] = b[0];", "global-buffer-overflow"),
        ("extern __shared__ float a[];\na[threadIdx.x % 17] = 1; y[0] = a[0];", "use-after-poison"),
        ("float a[4], *b = a;\nfor (int i = 0; i < 4 + threadIdx.x % 2; ++i) b[i] = i; y[0] = b[1];", "stack-buffer"),
        ("__syncthreads(); y[threadIdx.x] = 1;", ""),
    ],
)  # fmt: skip
def test_address_sanitizer_finds_what_lies_outside(tmp_path: Path, body: str, error: str) -> None:
    if sanitized():
        pytest.skip("already under AddressSanitizer")
    (tmp_path / "k.cu").write_text(f"__global__ void k(float* y) {{\n{body} }}\n")
    script = OUTSIDE.format(root=str(ROOT), backends=str(ROOT / "backends"), folder=str(tmp_path))
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "tests.simt.asan", "--script", str(tmp_path / "script.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode != 0) == bool(error), done.stderr[-2000:]
    assert error in done.stderr
    assert not error or "k.cu:" in done.stderr


def test_planted_bugs_stand_in_the_kernels_once(tmp_path: Path) -> None:
    import importlib

    for topic in mutate.topics():
        mutants = importlib.import_module(f"tests.simt.mutants.{topic}").MUTANTS
        for number, (file, old, new) in enumerate(mutants):
            assert old != new
            mutate.plant(tmp_path / f"{topic}{number}", file, old, new)


def test_the_order_of_blocks_differs(tmp_path: Path) -> None:
    (tmp_path / "numbers.cuh").write_text(NUMBERS)
    orders = []
    for schedule in simt.SCHEDULES:
        emulator = Emulator(tmp_path)
        emulator.schedule = schedule
        y = xp.zeros(5, dtype=np.int32)
        body = "int turn = 0; while (y[turn]) ++turn; y[turn] = 1 + blockIdx.x;"
        kernel(emulator, body, parameters="int* y")((5,), (1,), (y,))
        orders.append(tuple(y.view(np.ndarray).tolist()))
    assert orders == [(1, 2, 3, 4, 5), (5, 4, 3, 2, 1), (1, 5, 2, 4, 3)]
    assert len(set(itertools.chain(orders))) == 3
