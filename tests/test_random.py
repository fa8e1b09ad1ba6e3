"""Random numbers: published answers, equality bit for bit between libraries, and the usual statistics."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import statistics
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import load

from minidiff import philox as rules
from minidiff.backend import Backend
from minidiff.random import Generator, observe_draws, replay_draws
from minidiff_numpy import random as kernels

MOST = 2**64 - 1
KERNELS = {"random_words": kernels.random_words, "random_normal": kernels.random_normal}

# Random123, tests/kat_vectors, "philox4x32 10": (counter, stream, seed) and the four words of the block.
KNOWN_ANSWERS = [
    ((0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MOST, MOST, MOST), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.fixture
def generic(backend: Backend) -> Backend:
    """A backend that has only the generic rules."""
    return dataclasses.replace(backend, kernels={})


def reference() -> Backend:
    return dataclasses.replace(load("cpu"), kernels={})


def fixed_words(*words: int) -> Backend:
    """A CPU that draws these words again and again."""

    def random_words(xp: Any, seed: int, stream: int, counter: int, blocks: int) -> Any:
        return np.resize(np.asarray(words, np.int64), 4 * blocks)

    return dataclasses.replace(load("cpu"), kernels={"random_words": random_words})


def bits(backend: Backend, x: Any) -> tuple[str, tuple[int, ...], bytes]:
    host = backend.to_numpy(x)
    return str(host.dtype), host.shape, host.tobytes()


def block(seed: int, stream: int, counter: int) -> tuple[int, ...]:
    return rules.philox(counter & rules.WORD, counter >> 32, stream & rules.WORD, stream >> 32, seed)


# --- words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "words"), KNOWN_ANSWERS)
def test_known_answers(generic: Backend, key: tuple[int, int, int], words: tuple[int, ...]) -> None:
    counter, stream, seed = key
    got = rules.random_words(generic, seed, stream, counter, 1)
    assert got.dtype == generic.xp.int64
    assert tuple(generic.to_numpy(got).tolist()) == words


@pytest.mark.parametrize(("key", "words"), KNOWN_ANSWERS)
def test_known_answers_of_the_kernel(key: tuple[int, int, int], words: tuple[int, ...]) -> None:
    counter, stream, seed = key
    assert tuple(kernels.random_words(np, seed, stream, counter, 1).tolist()) == words


@pytest.mark.parametrize("counter", [0, 2**32 - 3, 2**63 - 3, 2**64 - 5])
def test_blocks_count_on_through_64_bits(generic: Backend, counter: int) -> None:
    expected = [word for i in range(5) for word in block(9, 0, counter + i)]
    assert generic.to_numpy(rules.random_words(generic, 9, 0, counter, 5)).tolist() == expected
    assert kernels.random_words(np, 9, 0, counter, 5).tolist() == expected


def test_element_i_is_word_i_mod_4_of_block_i_div_4(generic: Backend) -> None:
    got = generic.to_numpy(Generator(0, generic).integers(0, 2**32, (2, 3)))
    assert got.tolist() == [list(KNOWN_ANSWERS[0][1][:3]), [KNOWN_ANSWERS[0][1][3], *block(0, 0, 1)[:2]]]


# --- equality between libraries ----------------------------------------------------------------------------

DRAWS = {
    "normal": lambda rng: rng.normal((3, 17, 5)),
    "normal float64": lambda rng: rng.normal(20_001, dtype=rng.backend.xp.float64),
    "uniform": lambda rng: rng.uniform((7, 5), low=-1.5, high=0.1),
    "uniform float64": lambda rng: rng.uniform(9_999, dtype=rng.backend.xp.float64),
    "integers": lambda rng: rng.integers(-5, 2**31, (4, 6)),
    "permutation": lambda rng: rng.permutation(1_001),
    "split": lambda rng: rng.split().normal(9),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_every_library_draws_the_same_bits(backend: Backend, draw: str) -> None:
    ours, theirs = Generator(123456789, backend), Generator(123456789, reference())
    for rng in (ours, theirs):
        rng.state = {"seed": 2**63 + 11, "counter": 2**32 - 7}
    assert bits(backend, DRAWS[draw](ours)) == bits(reference(), DRAWS[draw](theirs))
    assert ours.state == theirs.state


def test_half_precision_is_rounded_from_float32(generic: Backend) -> None:
    half = getattr(generic.xp, "float16", None)
    if half is None:
        pytest.skip(f"{generic.device} has no float16")
    got = generic.to_numpy(Generator(1, generic).normal(100_000, dtype=half))
    expected = Generator(1, reference()).normal(100_000).astype(np.float16)
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "size", [1, 3, 4, 4 * kernels.BLOCKS - 1, 4 * kernels.BLOCKS, 12 * kernels.BLOCKS + 5]
)
def test_the_kernel_draws_the_bits_of_the_generic_rule(size: int, dtype: Any) -> None:
    key = (MOST - 3, 77, MOST + 1 - (size + 3) // 4)
    assert bits(reference(), kernels.random_normal(np, *key, size, dtype)) == bits(
        reference(), rules.random_normal(reference(), *key, size, dtype)
    )
    assert bits(reference(), kernels.random_words(np, *key, (size + 3) // 4)) == bits(
        reference(), rules.random_words(reference(), *key, (size + 3) // 4)
    )


def edges() -> np.ndarray[Any, Any]:
    """Words at both ends, at the seams of the approximations, and at every power of two from both ends."""
    centre, seam = 2**31, round(0.425 * 2**32)
    anchors = [0, 2**32 - 1, centre, centre - seam, centre + seam]
    for power in range(32):
        below = round(2.0**power * 0.707)
        anchors += [2**power, 2**32 - 2**power, below, 2**32 - below]
    words = np.add.outer(np.asarray(anchors), np.arange(-40, 41)).reshape(-1)
    return np.unique(words[(words >= 0) & (words < 2**32)])


def test_the_kernel_has_the_seams_of_the_generic_rule() -> None:
    words = edges()
    q, *scratch = (np.asarray(words, np.float64) for _ in range(4))
    expected = rules.normal_from_words(reference().xp, words)
    assert kernels._normal(q, *scratch).tobytes() == expected.tobytes()


def test_the_kernel_leaves_other_types_to_the_generic_rule() -> None:
    assert kernels.random_normal(np, 1, 0, 0, 8, np.float16) is NotImplemented
    fast = dataclasses.replace(load("cpu"), kernels=KERNELS)
    got = Generator(1, fast).normal(8, dtype=np.float16)
    assert bits(fast, got) == bits(fast, Generator(1, reference()).normal(8).astype(np.float16))


def test_kernels_are_asked_first_and_never_for_nothing() -> None:
    calls = []

    def random_normal(given: Any, *arguments: Any) -> Any:
        calls.append((given, *arguments))
        return np.zeros(arguments[3], np.float32)

    backend = dataclasses.replace(load("cpu"), kernels={"random_normal": random_normal})
    rng = Generator(5, backend)
    rng.normal((0, 3))
    assert not rng.normal((2, 3)).any()
    assert calls == [(backend, 5, 0, 0, 6, backend.xp.float32)]


def test_arrays_are_placed_by_from_numpy_alone(backend: Backend) -> None:
    """What `xp.arange` and its like make would lie on the library's current device, not on a numbered one."""
    creation = {"arange", "asarray", "empty", "eye", "full", "linspace", "ones", "zeros"}
    names = [name for name in dir(backend.xp) if name not in creation and not name.startswith("_")]
    xp = SimpleNamespace(**{name: getattr(backend.xp, name) for name in names})
    rng = Generator(3, dataclasses.replace(backend, xp=xp, kernels={}))
    for draw in DRAWS.values():
        assert type(draw(rng)) is backend.array_type


# --- normal numbers ----------------------------------------------------------------------------------------


def normals(words: Any) -> np.ndarray[Any, Any]:
    return np.asarray(rules.normal_from_words(reference().xp, np.asarray(words, np.int64)))


def test_normals_invert_the_error_function(generic: Backend) -> None:
    words = edges()
    z = generic.to_numpy(rules.normal_from_words(generic.xp, generic.from_numpy(words)))
    upper = np.minimum(words, 2**32 - 1 - words) + 0.5  # of 2**32; the smaller of p and 1 - p
    back = [0.5 * math.erfc(abs(x) / math.sqrt(2)) * 2.0**32 for x in z.tolist()]
    np.testing.assert_allclose(back, upper, rtol=1e-13)
    assert (np.diff(z) > 0).all()
    assert ((z < 0) == (words < 2**31)).all()


def test_normals_are_symmetric() -> None:
    words = edges()
    assert normals(2**32 - 1 - words).tobytes() == (-normals(words)).tobytes()


# Quantiles of the standard normal distribution (e.g. R's qnorm).
QUANTILES = {
    0.5: 0.0,
    0.75: 0.6744897501960817,
    0.925: 1.4395314709384563,
    0.975: 1.9599639845400545,
    0.995: 2.5758293035489004,
    0.9995: 3.2905267314918945,
    0.999999: 4.753424308822899,
    0.99999999: 5.612001244174789,
}


@pytest.mark.parametrize(("p", "z"), QUANTILES.items())
def test_published_quantiles(p: float, z: float) -> None:
    word = math.floor(p * 2**32 - 0.5)
    below, above = normals([word, word + 1])
    assert below <= z <= above


def test_against_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    words = np.concatenate([edges(), Generator(2, reference()).integers(0, 2**32, 50_000)])
    lower = np.minimum(words, 2**32 - 1 - words)
    expected = np.where(words < 2**31, 1, -1) * special.ndtri((lower + 0.5) / 2**32)
    np.testing.assert_allclose(normals(words), expected, rtol=2e-15)


def test_the_stream_of_seed_0_starts_like_this(backend: Backend) -> None:
    words = (*KNOWN_ANSWERS[0][1], *block(0, 0, 1))
    expected = [statistics.NormalDist().inv_cdf((word + 0.5) / 2**32) for word in words]
    got = backend.to_numpy(Generator(0, backend).normal(8, dtype=backend.xp.float64))
    np.testing.assert_allclose(got, expected, rtol=1e-14)
    single = backend.to_numpy(Generator(0, backend).normal((2, 4)))
    assert single.dtype == np.float32
    assert single.tobytes() == got.astype(np.float32).tobytes()


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
    rng = Generator(8, dataclasses.replace(load("cpu"), kernels=KERNELS))
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6_000):
        order = tuple(rng.permutation(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert (
        sum((count - 1_000) ** 2 for count in counts.values()) / 1_000 < 20.5
    )  # 5 degrees of freedom, 1 in 1,000


def test_permutation_keeps_the_order_of_equal_words() -> None:
    got = Generator(0, fixed_words(5, 3, 3, 5)).permutation(1_000)
    threes = [i for i in range(1_000) if i % 4 in (1, 2)]
    assert got.tolist() == threes + [i for i in range(1_000) if i % 4 in (0, 3)]


# --- the stream --------------------------------------------------------------------------------------------


def test_a_draw_takes_a_quarter_as_many_blocks(backend: Backend) -> None:
    rng = Generator(7, backend)
    expected = 0
    for size, blocks in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)):
        for draw in (rng.normal, rng.uniform, lambda n: rng.integers(0, 9, n), rng.permutation):
            draw(size)
            expected += blocks
            assert rng.state == {"seed": 7, "counter": expected}


def test_draws_join_up(backend: Backend) -> None:
    whole, parts = Generator(7, backend), Generator(7, backend)
    joined = np.concatenate([backend.to_numpy(parts.normal(size)) for size in (4, 0, 8, 3)])
    assert backend.to_numpy(whole.normal(15)).tobytes() == joined.tobytes()


@pytest.mark.parametrize("shape", [0, (0,), (2, 0, 3)])
def test_empty_draws_take_nothing(backend: Backend, shape: Any) -> None:
    rng = Generator(7, backend)
    with observe_draws() as record:
        drawn = (rng.normal(shape), rng.uniform(shape), rng.integers(0, 3, shape))
    expected = (shape,) if isinstance(shape, int) else shape
    assert all(x.shape == expected for x in drawn)
    assert rng.state["counter"] == 0
    assert not record


def test_scalars_and_other_kinds_of_int(backend: Backend) -> None:
    rng = Generator(np.int64(7), backend)
    assert rng.normal(()).shape == ()
    assert rng.normal([np.int32(2), 3]).shape == (2, 3)
    assert json.loads(json.dumps(rng.state)) == {"seed": 7, "counter": 3}


def test_a_stream_resumes_from_its_state(backend: Backend) -> None:
    rng = Generator(2**64 - 1, backend)
    rng.normal(1_001)
    saved = json.dumps(rng.state)
    expected = rng.normal((5, 5)), rng.split().uniform(3), rng.permutation(6)
    resumed = Generator(0, backend)
    resumed.state = json.loads(saved)
    got = resumed.normal((5, 5)), resumed.split().uniform(3), resumed.permutation(6)
    assert [bits(backend, x) for x in got] == [bits(backend, x) for x in expected]


def test_seeds_and_splits_are_disjoint(backend: Backend) -> None:
    rngs = [Generator(seed, backend) for seed in (0, 1, 2, 2**32, 2**63)]
    rngs += [rng.split() for rng in rngs for _ in range(3)]
    rngs += [rng.split() for rng in rngs[-6:]]
    words = np.stack([backend.to_numpy(rng.integers(0, 2**32, 2_000)) for rng in rngs])
    pairs = words[:, 0::2] << 32 | words[:, 1::2]
    assert len(np.unique(pairs)) == pairs.size
    x = normals(words)
    correlation = np.corrcoef(x) - np.eye(len(rngs))
    assert abs(correlation).max() < 4.5 / math.sqrt(2_000)


def test_split_is_a_function_of_seed_and_counter(backend: Backend) -> None:
    parent, other = Generator(7, backend), Generator(7, backend)
    first, second = parent.split(), parent.split()
    assert parent.state == {"seed": 7, "counter": 2}
    assert first.backend is parent.backend is backend
    words = block(7, 1, 1)
    assert second.state == {"seed": words[1] << 32 | words[0], "counter": 0}
    other.normal(4)
    assert other.split().state == second.state != first.state


def test_repr_names_seed_device_and_counter(backend: Backend) -> None:
    rng = Generator(7, backend)
    rng.normal(9)
    assert repr(rng) == f"Generator(seed=7, device={backend.device!r}, counter=3)"


# --- replay ------------------------------------------------------------------------------------------------


def test_a_replay_draws_the_same_and_leaves_no_trace(backend: Backend) -> None:
    a, b, idle = (Generator(seed, backend) for seed in (1, 2, 3))
    a.normal(10)
    with observe_draws() as record:
        child = b.split()
        first = a.normal(5), child.uniform(4), a.integers(0, 9, 6), b.normal(2)
    assert record == {a: 3, b: 0, child: 0}
    a.normal(7)
    idle.normal(7)
    before = [rng.state for rng in (a, b, idle)]
    with replay_draws(record):
        again = a.normal(5), b.split().uniform(4), a.integers(0, 9, 6), b.normal(2)
    assert [bits(backend, x) for x in again] == [bits(backend, x) for x in first]
    assert [rng.state for rng in (a, b, idle)] == before


def test_observers_nest() -> None:
    rng, other = Generator(1), Generator(2)
    with observe_draws() as outer:
        rng.normal(4)
        with observe_draws() as inner:
            rng.normal(4)
            other.normal(4)
        rng.normal(4)
    Generator(3).normal(4)
    assert outer == {rng: 0, other: 0}
    assert inner == {rng: 1, other: 0}


def test_a_replay_is_seen_by_inner_observers_only() -> None:
    rng = Generator(1)
    with observe_draws() as record:
        rng.normal(40)
    with observe_draws() as outer:
        with replay_draws(record), observe_draws() as inner:
            rng.normal(4)
        rng.normal(4)
    assert inner == {rng: 0}
    assert outer == {rng: 10}  # not 0: who replays `outer` enters this replay at block 10 again


def test_errors_inside_leave_nothing_behind() -> None:
    rng = Generator(1)
    with contextlib.suppress(ZeroDivisionError), observe_draws() as record:
        rng.normal(4)
        raise ZeroDivisionError
    rng.normal(4)
    with contextlib.suppress(ZeroDivisionError), replay_draws(record):
        rng.normal(400)
        raise ZeroDivisionError
    assert rng.state["counter"] == 2
    Generator(2).normal(4)
    assert record == {rng: 0}
    with observe_draws() as after:
        rng.normal(4)
    assert after == {rng: 2}


def test_other_threads_are_not_observed() -> None:
    mine, theirs = Generator(1), Generator(2)
    with observe_draws() as record:
        thread = threading.Thread(target=theirs.normal, args=(4,))
        thread.start()
        thread.join()
        mine.normal(4)
    assert record == {mine: 0}
    assert theirs.state["counter"] == 1


# --- errors ------------------------------------------------------------------------------------------------

ERRORS = [
    (lambda rng: Generator(-1, rng.backend), "seed -1 is not from 0 to 18446744073709551615"),
    (lambda rng: Generator(2**64, rng.backend), r"seed 18446744073709551616 .* modulo 2\*\*64"),
    (lambda rng: rng.normal((2, -3)), r"normal: shape \(2, -3\) has a negative side"),
    (lambda rng: rng.permutation(-1), r"permutation: shape \(-1,\) has a negative side"),
    (
        lambda rng: rng.normal(4, dtype=rng.backend.xp.int32),
        "normal: .*int32 is no real floating-point type of .*; draw",
    ),
    (
        lambda rng: rng.uniform(4, dtype=rng.backend.xp.bool),
        "uniform: .*bool.* is no real floating-point type",
    ),
    (
        lambda rng: rng.normal(4, dtype="bfloat16"),
        "normal: bfloat16 is no real floating-point type of .*; draw",
    ),
    (lambda rng: rng.uniform(4, low=1.0, high=1.0), r"from low=1\.0 up to high=1\.0; give low < high"),
    (lambda rng: rng.uniform(4, low=2, high=1), r"float32 range from low=2\.0 up to high=1\.0"),
    (lambda rng: rng.uniform(4, low=1.0, high=1.0 + 1e-9), r"more than 1\.2e-07 of their size"),
    (lambda rng: rng.uniform(4, high=math.inf), "high=inf"),
    (lambda rng: rng.uniform(4, low=math.nan), "low=nan"),
    (lambda rng: rng.uniform(4, high=1e39), r"high=1e\+39; .* at most 3\.4e\+38 apart"),
    (lambda rng: rng.integers(3, 3, 2), r"high - low = 3 - 3 = 0 is not from 1 to 2\*\*32"),
    (lambda rng: rng.integers(0, 2**32 + 1, 2), r"4294967297 - 0 = 4294967297 is not from 1 to 2\*\*32"),
    (lambda rng: rng.integers(2**63, 2**63 + 1, 2), "high=9223372036854775809 do not fit into int64"),
    (
        lambda rng: setattr(rng, "state", {"seed": 1}),
        r"expected {'seed': int, 'counter': int}, got {'seed': 1}",
    ),
    (lambda rng: setattr(rng, "state", [1, 2]), r"got \[1, 2\]"),
    (lambda rng: setattr(rng, "state", {"seed": 2**64, "counter": 0}), "seed 18446744073709551616"),
    (lambda rng: setattr(rng, "state", {"seed": 1, "counter": -4}), "counter -4 is not from 0 to"),
]


@pytest.mark.parametrize(("act", "message"), ERRORS)
def test_errors_name_the_numbers_and_take_nothing(backend: Backend, act: Any, message: str) -> None:
    rng = Generator(7, backend)
    with pytest.raises(ValueError, match=message):
        act(rng)
    assert rng.state == {"seed": 7, "counter": 0}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda _: Generator(1.5), r"Generator: seed takes integers, got 1\.5 \(float\)"),
        (lambda rng: rng.normal(2.5), r"normal: shape takes integers, got 2\.5 \(float\)"),
        (lambda rng: rng.normal((2, "3")), r"got '3' \(str\)"),
        (lambda rng: rng.integers(0.0, 3, 2), r"integers: low takes integers, got 0\.0 \(float\)"),
        (lambda rng: rng.permutation((3,)), r"permutation: n takes integers, got \(3,\) \(tuple\)"),
        (
            lambda rng: setattr(rng, "state", {"seed": 1, "counter": "0"}),
            r"counter takes integers, got '0' \(str\)",
        ),
    ],
)
def test_what_is_no_integer(act: Any, message: str) -> None:
    rng = Generator(7)
    with pytest.raises(TypeError, match=message):
        act(rng)
    assert rng.state == {"seed": 7, "counter": 0}


def test_the_last_block(backend: Backend) -> None:
    rng = Generator(7, backend)
    rng.state = {"seed": 7, "counter": 2**64 - 1}
    with pytest.raises(
        ValueError, match=r"counter=18446744073709551615.* has only 1 of 2 blocks left; take a new seed"
    ):
        rng.normal(5)
    last = backend.to_numpy(rng.integers(0, 2**32, 4))
    assert tuple(last.tolist()) == block(7, 0, 2**64 - 1)
    assert rng.state["counter"] == 2**64
    assert rng.normal(0).shape == (0,)
    with pytest.raises(ValueError, match="has only 0 of 1 blocks left"):
        rng.split()
    resumed = Generator(0, backend)
    resumed.state = rng.state
    assert resumed.state == {"seed": 7, "counter": 2**64}
