"""Noise from the emulated device is the noise of the generic rules, bit for bit."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import minidiff
from minidiff import philox
from minidiff.backend import Backend, get_backend
from minidiff_cupy import nvrtc
from minidiff_cupy.random import random_normal, random_words
from tests import simt
from tests.simt import emulator

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
STREAMS = [  # seed, stream, counter
    (0, 0, 0),
    (7, 0, 2**32 - 3),
    (2**64 - 1, 2**64 - 1, 2**63 + 5),
    (0x123456789ABCDEF0, 1 << 40, 2**40 + 2**31 - 1),
]


def check(backend: Backend, stream: tuple[int, int, int], size: int, dtype: Any) -> None:
    actual = random_normal(backend, *stream, size, dtype)
    expected = philox.random_normal(get_backend("cpu"), *stream, size, dtype)
    assert isinstance(actual, backend.array_type)
    assert actual.dtype == dtype
    assert actual.shape == (size,)
    assert backend.to_numpy(actual).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stream", STREAMS)
def test_normal_numbers(simt_backend: Backend, stream: tuple[int, int, int], dtype: Any) -> None:
    for size in (1, 2, 3, 4, 1025):
        check(simt_backend, stream, size, dtype)


def test_the_last_block_of_a_stream(simt_backend: Backend) -> None:
    check(simt_backend, (3, 0, 2**64 - 300), 1200, np.float32)
    words = random_words(simt_backend, 3, 0, 2**64 - 1, 1)
    expected = philox.random_words(get_backend("cpu"), 3, 0, 2**64 - 1, 1)
    np.testing.assert_array_equal(simt_backend.to_numpy(words), expected)


def test_many_numbers() -> None:
    """So many that each branch of the logarithm is taken, and words come near to both ends."""
    check(simt.backend(), (1, 0, 0), 200_000, np.float64)


@pytest.mark.parametrize("stream", STREAMS)
def test_words(simt_backend: Backend, stream: tuple[int, int, int]) -> None:
    for blocks in (1, 257):
        words = random_words(simt_backend, *stream, blocks)
        expected = philox.random_words(get_backend("cpu"), *stream, blocks)
        assert words.dtype == np.int64
        np.testing.assert_array_equal(simt_backend.to_numpy(words), expected)


def test_a_generator_draws_what_one_on_the_cpu_draws(simt_backend: Backend) -> None:
    there, here = minidiff.Generator(5, simt_backend), minidiff.Generator(5)
    for draw in (
        lambda rng: rng.normal((2, 3, 5)),
        lambda rng: rng.normal((0, 4)),
        lambda rng: rng.uniform((7,)),
        lambda rng: rng.integers(0, 1000, (9,)),
        lambda rng: rng.permutation(11),
        lambda rng: rng.split().normal((), dtype=np.float64),
    ):
        np.testing.assert_array_equal(simt_backend.to_numpy(draw(there)), draw(here))
    assert there.state == here.state


def test_other_numbers_are_left_to_the_generic_rule() -> None:
    assert random_normal(simt.backend(), 0, 0, 0, 4, np.complex64) is NotImplemented


@pytest.mark.skipif(emulator.sanitized(), reason="NVRTC does not find its library under AddressSanitizer")
def test_no_product_is_fused_with_a_sum() -> None:
    pytest.importorskip("cupy")
    code = nvrtc.compile("random.cu", ["random_normal<double>"], "compute_80").code.decode()
    assert "mul.rn.f64" in code
    assert not re.search(r"\bfma\.rn\.f64", code)
