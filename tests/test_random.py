"""Generators: the same bits in every library, a stream of blocks that is resumed, split and replayed."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend, get_backend
from minidiff.random import Generator, observe_draws, replay_draws
from tests.random_words import bits, block, reference

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


def test_kernels_are_asked_first_and_never_for_nothing() -> None:
    calls = []

    def random_normal(given: Any, *arguments: Any) -> Any:
        calls.append((given, *arguments))
        return np.zeros(arguments[3], np.float32)

    backend = replace(get_backend("cpu"), kernels={"random_normal": random_normal})
    rng = Generator(5, backend)
    rng.normal((0, 3))
    assert not rng.normal((2, 3)).any()
    assert calls == [(backend, 5, 0, 0, 6, backend.xp.float32)]


def test_arrays_are_placed_by_from_numpy_alone(backend: Backend) -> None:
    """What `xp.arange` and its like make would lie on the library's current device, not on a numbered one."""
    creation = {"arange", "asarray", "empty", "eye", "full", "linspace", "ones", "zeros"}
    names = [name for name in dir(backend.xp) if name not in creation and not name.startswith("_")]
    xp = SimpleNamespace(**{name: getattr(backend.xp, name) for name in names})
    rng = Generator(3, replace(backend, xp=xp, kernels={}))
    for draw in DRAWS.values():
        assert type(draw(rng)) is backend.array_type


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
    correlation = np.corrcoef(words) - np.eye(len(rngs))
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
