"""The usual statistics: normal and uniform numbers, integers and permutations, up to the ends of their ranges."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff.random import Generator
from tests.random_words import KNOWN_ANSWERS, fixed_words


def test_moments(backend: Backend) -> None:
    n = 100_000
    x = backend.to_numpy(Generator(11, backend).normal(n, dtype=backend.xp.float64))
    # mean, variance, third and fourth moment with the standard deviation of each
    for power, moment, deviation in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - moment) < 4 * math.sqrt(deviation / n)
    for lag in (1, 2, 3, 4):
        assert abs((x[lag:] * x[:-lag]).mean()) < 4 / math.sqrt(n)


def kolmogorov_smirnov(sample: np.ndarray[Any, Any], distribution: list[float]) -> float:
    """The greatest distance to the distribution function times sqrt(n): by chance 1.95 once in 1,000."""
    n = len(sample)
    f = np.asarray(distribution)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - f).max(), (f - steps[:-1]).max()) * math.sqrt(n))


def test_distributions(backend: Backend) -> None:
    rng = Generator(5, backend)
    x = np.sort(backend.to_numpy(rng.normal(20_000)))
    assert kolmogorov_smirnov(x, [0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]) < 1.95
    u = np.sort(backend.to_numpy(rng.uniform(20_000, low=2.0, high=6.0)))
    assert kolmogorov_smirnov(u, ((u - 2) / 4).tolist()) < 1.95


# --- uniform numbers, integers, permutations ---------------------------------------------------------------


def test_uniform_is_half_open_whatever_the_rounding() -> None:
    backend = fixed_words(0, 2**32 - 1)
    ends = np.random.default_rng(0).standard_normal((300, 2)) * 10.0 ** np.arange(-150, 150)[:, None]
    cases = [(0.0, 1.0), (1.0, 2.0), (-1.0, 0.0), (-2.0, -1.0), (0.1, 0.3), (0.0, 2.0**-149), (0.0, 1e-310)]
    cases += [(min(pair), max(pair)) for pair in ends.tolist()]
    tried = 0
    for dtype in (np.float16, np.float32, np.float64):
        tiny, most = (float(getattr(np.finfo(dtype), name)) for name in ("smallest_subnormal", "max"))
        for low, high in cases:
            if not tiny < high - low < most or max(-low, high) > most:
                continue
            first, last = Generator(0, backend).uniform(2, low=low, high=high, dtype=dtype).tolist()
            assert dtype(low) <= first <= last < dtype(high), (low, high, dtype)
            assert last >= low + (high - low) * 0.998 - abs(high) * 0.002 - 2 * tiny, (low, high, dtype)
            tried += 1
    assert tried > 300


def test_uniform_takes_the_words_in_order(backend: Backend) -> None:
    got = backend.to_numpy(Generator(0, backend).uniform(4, low=-1, high=3, dtype=backend.xp.float64))
    assert got.tolist() == [-1 + 4 * (word / 2**32) for word in KNOWN_ANSWERS[0][1]]


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-3, 4), (0, 2**32), (-(2**63), 2**32 - 2**63), (2**63 - 2**32, 2**63), (2**63 - 1, 2**63)],
)
def test_integers_reach_both_ends(low: int, high: int) -> None:
    got = Generator(0, fixed_words(0, 2**32 - 1)).integers(low, high, (2, 1))
    assert got.dtype == np.int64
    assert got.tolist() == [[low], [high - 1]]


@pytest.mark.parametrize("span", [10, 64, 1000])
def test_integers_are_evenly_distributed(backend: Backend, span: int) -> None:
    n = 40_000
    got = backend.to_numpy(Generator(span, backend).integers(-7, span - 7, n))
    counts = np.bincount(got + 7, minlength=span)
    assert len(counts) == span
    chi_square = float(((counts - n / span) ** 2).sum() / (n / span))
    # Wilson and Hilferty: the cube root is nearly normal; 3.29 deviations either way, 1 in 1,000
    freedom = span - 1
    normal = ((chi_square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert abs(normal) < 3.29


def test_integers_have_the_documented_bias() -> None:
    """Of all words, the share of a value differs from 1 / span by less than one word."""
    span = 1000
    first = [-(-value * 2**32 // span) for value in range(span + 1)]  # the first word of each value
    words = np.asarray(sorted({w for f in first for w in (f - 1, f) if 0 <= w < 2**32}))
    backend = fixed_words(*words.tolist())
    got = Generator(0, backend).integers(0, span, len(words))
    assert got.tolist() == [int(word) * span >> 32 for word in words]
    assert {b - a for a, b in itertools.pairwise(first)} == {2**32 // span, 2**32 // span + 1}


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1_000])
def test_permutation_is_one(backend: Backend, n: int) -> None:
    got = backend.to_numpy(Generator(4, backend).permutation(n))
    assert got.dtype == np.int64
    assert sorted(got.tolist()) == list(range(n))


def test_permutations_are_evenly_distributed() -> None:
    words = Generator(8).integers(0, 2**32, 24_000)  # at once: a block at a time takes long
    rng = Generator(8, fixed_words(*words))
    counts = Counter(tuple(rng.permutation(3).tolist()) for _ in range(6_000))
    assert len(counts) == 6
    # 5 degrees of freedom, 1 in 1,000
    assert sum((count - 1_000) ** 2 for count in counts.values()) / 1_000 < 20.5


def test_permutation_keeps_the_order_of_equal_words() -> None:
    got = Generator(0, fixed_words(5, 3, 3, 5)).permutation(1_000)
    threes = [i for i in range(1_000) if i % 4 in (1, 2)]
    assert got.tolist() == threes + [i for i in range(1_000) if i % 4 in (0, 3)]
