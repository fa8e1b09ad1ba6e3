"""What generators refuse, by its numbers, and that it takes nothing from the stream."""

from __future__ import annotations

import math
from typing import Any

import pytest

from minidiff.backend import Backend
from minidiff.random import Generator
from tests.random_words import block

ERRORS = [
    (lambda rng: Generator(-1, rng.backend), "seed -1 is not from 0 to 18446744073709551615"),
    (lambda rng: Generator(2**64, rng.backend), r"seed 18446744073709551616 .* modulo 2\*\*64"),
    (lambda rng: rng.normal((2, -3)), r"normal: shape \(2, -3\) has a negative side"),
    (lambda rng: rng.permutation(-1), r"permutation: shape \(-1,\) has a negative side"),
    (lambda rng: rng.normal(4, dtype=rng.backend.xp.int32), "normal: .*int32 is no real floating-point type of"),
    (lambda rng: rng.uniform(4, dtype=rng.backend.xp.bool), "uniform: .*bool.* is no real floating-point type"),
    (lambda rng: rng.normal(4, dtype="bfloat16"), "normal: bfloat16 is no real floating-point type of .*; draw"),
    (lambda rng: rng.uniform(4, low=1.0, high=1.0), r"from low=1\.0 up to high=1\.0; give low < high"),
    (lambda rng: rng.uniform(4, low=2, high=1), r"float32 range from low=2\.0 up to high=1\.0"),
    (lambda rng: rng.uniform(4, low=1.0, high=1.0 + 1e-9), r"more than 1\.2e-07 of their size"),
    (lambda rng: rng.uniform(4, high=math.inf), "high=inf"),
    (lambda rng: rng.uniform(4, low=math.nan), "low=nan"),
    (lambda rng: rng.uniform(4, high=1e39), r"high=1e\+39; .* at most 3\.4e\+38 apart"),
    (lambda rng: rng.integers(3, 3, 2), r"high - low = 3 - 3 = 0 is not from 1 to 2\*\*32"),
    (lambda rng: rng.integers(0, 2**32 + 1, 2), r"4294967297 - 0 = 4294967297 is not from 1 to 2\*\*32"),
    (lambda rng: rng.integers(2**63, 2**63 + 1, 2), "high=9223372036854775809 do not fit into int64"),
    (lambda rng: setattr(rng, "state", {"seed": 1}), r"expected {'seed': int, 'counter': int}, got {'seed': 1}"),
    (lambda rng: setattr(rng, "state", [1, 2]), r"got \[1, 2\]"),
    (lambda rng: setattr(rng, "state", {"seed": 2**64, "counter": 0}), "seed 18446744073709551616"),
    (lambda rng: setattr(rng, "state", {"seed": 1, "counter": -4}), "counter -4 is not from 0 to"),
]  # fmt: skip


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
