"""Random words and normal numbers: published answers, and the NumPy kernel's bits."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minidiff import philox as rules
from minidiff.backend import Backend, get_backend
from minidiff.random import Generator
from minidiff_numpy import random as kernels
from tests.random_words import KNOWN_ANSWERS, MOST, bits, block, reference


@pytest.fixture
def generic(backend: Backend) -> Backend:
    """A backend that has only the generic rules."""
    return replace(backend, kernels={})


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


# --- normal numbers ----------------------------------------------------------------------------------------


def edges() -> np.ndarray[Any, Any]:
    """Words at both ends, at the seams of the approximations, and at every power of two from both ends."""
    centre, seam = 2**31, round(0.425 * 2**32)
    anchors = [0, 2**32 - 1, centre, centre - seam, centre + seam]
    for power in range(32):
        below = round(2.0**power * 0.707)
        anchors += [2**power, 2**32 - 2**power, below, 2**32 - below]
    words = np.add.outer(np.asarray(anchors), np.arange(-40, 41)).reshape(-1)
    return np.unique(words[(words >= 0) & (words < 2**32)])


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


def test_half_precision_is_rounded_from_float32(generic: Backend) -> None:
    half = getattr(generic.xp, "float16", None)
    if half is None:
        pytest.skip(f"{generic.device} has no float16")
    got = generic.to_numpy(Generator(1, generic).normal(100_000, dtype=half))
    expected = Generator(1, reference()).normal(100_000).astype(np.float16)
    assert got.tobytes() == expected.tobytes()


# --- the kernel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "size", [1, 3, 4, 4 * kernels.BLOCKS - 1, 4 * kernels.BLOCKS, 12 * kernels.BLOCKS + 5]
)
def test_the_kernel_draws_the_bits_of_the_generic_rule(size: int, dtype: Any) -> None:
    key = (MOST - 3, 77, MOST + 1 - (size + 3) // 4)
    cpu, blocks = reference(), (size + 3) // 4
    normal, words = kernels.random_normal(np, *key, size, dtype), kernels.random_words(np, *key, blocks)
    assert bits(cpu, normal) == bits(cpu, rules.random_normal(cpu, *key, size, dtype))
    assert bits(cpu, words) == bits(cpu, rules.random_words(cpu, *key, blocks))


def test_the_kernel_has_the_seams_of_the_generic_rule() -> None:
    words = edges()
    q, *scratch = (np.asarray(words, np.float64) for _ in range(4))
    expected = rules.normal_from_words(reference().xp, words)
    assert kernels._normal(q, *scratch).tobytes() == expected.tobytes()


def test_the_kernel_leaves_other_types_to_the_generic_rule() -> None:
    assert kernels.random_normal(np, 1, 0, 0, 8, np.float16) is NotImplemented
    fast = get_backend("cpu")
    got = Generator(1, fast).normal(8, dtype=np.float16)
    assert bits(fast, got) == bits(fast, Generator(1, reference()).normal(8).astype(np.float16))
