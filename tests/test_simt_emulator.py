"""The emulator behaves as a GPU does where that is defined."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests import simt
from tests.simt import namespace as xp
from tests.simt.emulator import Emulator
from tests.simt.probes import FULL, NUMBERS, emulator_in, kernel, run


@pytest.fixture(params=simt.SCHEDULES)
def emulator(request: pytest.FixtureRequest, tmp_path: Path) -> Emulator:
    return emulator_in(tmp_path, request.param)


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
