"""Contexts: weights prepared once where they stay as they are, and products rounded as asked."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidiff
from minidiff import Generator, ops
from minidiff.backend import Backend
from minidiff.diffusion import DDIM, sample
from minidiff.models import UNet
from minidiff.modes import prepared

Array = np.ndarray[Any, Any]


def counted() -> tuple[list[int], Callable[[Array], Array]]:
    calls: list[int] = []

    def double(w: Array) -> Array:
        calls.append(1)
        return 2 * w

    return calls, double


def test_weights_are_prepared_once_inside_and_every_time_outside() -> None:
    calls, double = counted()
    w, other = np.arange(3.0), np.arange(4.0)
    for _ in range(2):
        prepared(w, "double", double)
    assert len(calls) == 2
    with minidiff.inference():
        for _ in range(3):
            np.testing.assert_array_equal(prepared(w, "double", double), 2 * w)
            np.testing.assert_array_equal(prepared(other, "double", double), 2 * other)
            np.testing.assert_array_equal(prepared(w, "triple", lambda w: 3 * w), 3 * w)
    assert len(calls) == 4
    w += 1
    np.testing.assert_array_equal(prepared(w, "double", double), 2 * w)
    with minidiff.inference():
        np.testing.assert_array_equal(prepared(w, "double", double), 2 * w)


def test_a_context_inside_another_goes_on_with_what_there_is() -> None:
    calls, double = counted()
    w = np.ones(3)
    with minidiff.inference():
        for _ in range(3):
            with minidiff.inference(weight_bytes=0):
                prepared(w, "double", double)
    assert len(calls) == 1


def test_memory() -> None:
    """Bounded inside, and given back at the end."""
    calls, double = counted()
    small, large = np.ones(10), np.ones(13)
    with minidiff.inference(weight_bytes=100):
        held = weakref.ref(prepared(small, "double", double))
        for _ in range(2):
            prepared(small, "double", double)
            prepared(large, "double", double)
        gc.collect()
        assert held() is not None
        assert len(calls) == 3
    gc.collect()
    assert held() is None
    with minidiff.inference(weight_bytes=0):
        prepared(small, "double", double)
        prepared(small, "double", double)
    assert len(calls) == 5
    with pytest.raises(ValueError, match="0 or more, got -1"), minidiff.inference(weight_bytes=-1):
        pass


def test_the_number_of_an_array_is_not_given_to_another_meanwhile() -> None:
    _, double = counted()
    with minidiff.inference():
        for i in range(100):
            assert prepared(np.full(100, float(i)), "double", double)[0] == 2 * i


def test_convolutions_agree_inside_and_outside(backend: Backend) -> None:
    model, rng = UNet(3, 16, 3, rng=Generator(0, backend)), Generator(1, backend)
    x = rng.normal((2, 3, 16, 16))
    outside = [model(x, t) for t in (5, 9)]
    with minidiff.inference():
        inside = [model(x, t) for t in (5, 9)]
        for p in model.parameters().values():
            p.data = ops.negative(p.data)
        changed = model(x, 5)
    put = backend.to_numpy
    for a, b in zip(outside, inside, strict=True):
        np.testing.assert_array_equal(put(a), put(b))
    np.testing.assert_array_equal(put(changed), put(model(x, 5)))


def test_sampling_is_inference() -> None:
    calls, double = counted()
    w = np.zeros((2, 1, 8, 8), np.float32)
    sample(lambda x, t: prepared(w, "double", double), w.shape, DDIM(), steps=5, rng=Generator(0))
    assert len(calls) == 1


def test_an_unknown_precision() -> None:
    with (
        pytest.raises(ValueError, match="expected 'fast' or 'exact', got 'half'"),
        minidiff.precision("half"),
    ):  # type: ignore[arg-type]
        pass
