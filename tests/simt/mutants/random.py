"""Bugs planted in the random numbers."""

from __future__ import annotations

TESTS = ["tests/test_simt_random.py"]

MUTANTS = [
    ("philox.cuh", "round < 10", "round < 9"),
    ("philox.cuh", "c1 = static_cast<unsigned>(counter >> 32)", "c1 = 0"),
    ("philox.cuh", "k1 += 0xBB67AE85u", "k1 += 0xBB67AE84u"),
    ("philox.cuh", "c2 = p0.high ^ c3 ^ k1;", "c2 = p0.high ^ c3 ^ k0;"),
    (
        "philox.cuh",
        "unsigned long long product = static_cast<unsigned long long>(a) * b;",
        "unsigned long long product = a * b;",
    ),
    ("philox.cuh", "for (int i = 0; i < 4; ++i) r = 0.5", "for (int i = 0; i < 3; ++i) r = 0.5"),
    ("philox.cuh", "q.value < 0.0 ? -z.value : z.value", "q.value < 0.0 ? z.value : -z.value"),
    ("philox.cuh", "fabs(q.value) <= 0.425", "fabs(q.value) <= 0.426"),
    ("philox.cuh", "return __dmul_rn(a.value, b.value);", "return a.value * b.value;"),
    ("philox.cuh", "POWER[] = {16.0, 8.0, 4.0, 2.0, 1.0, 1.0}", "POWER[] = {16.0, 8.0, 4.0, 2.0, 1.0, 0.5}"),
    ("random.cu", "i < left; ++i", "i < left - 1; ++i"),
    (
        "random.cu",
        "from_float<T>(static_cast<float>(z))",
        "from_float<T>(static_cast<float>(z) * 1.0000001f)",
    ),
    (
        "random.cu",
        "return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;",
        "return threadIdx.x;",
    ),
]
