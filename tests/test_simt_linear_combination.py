"""Linear combinations on the emulated device: the CUDA kernel against the generic rule in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.backend import Backend
from minidiff.diffusion import DDIM, DDPM
from minidiff.random import Generator
from minidiff_cupy.linear_combination import linear_combination
from tests import simt
from tests.simt_comparison import DTYPES, LAYOUTS, compare, normal

COEFFICIENTS = (0.5, -1.5, 2, 0.0, 3.0, 1.0, -0.25, 0.75, 4.0)


def check(backend: Backend, count: int, *shape: int, dtype: str = "float32", layout: str = "C") -> Any:
    arrays = [normal(*shape, dtype=dtype, layout=layout, seed=i) for i in range(count)]
    options = {"layout": "channels last"} if layout == "channels last" else {}
    coefficients = COEFFICIENTS[:count]
    name = "linear_combination"
    return compare(backend, linear_combination, name, *arrays, coefficients=coefficients, **options)


@pytest.mark.parametrize("count", range(1, 9))
def test_any_count_up_to_eight(simt_backend: Backend, count: int) -> None:
    check(simt_backend, count, 2, 3, 5, 4)


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 4), (1, 1, 3, 3), (1, 2, 3, 1), (1,), (), (0, 3, 2, 2), (1, 5, 19, 27)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged_sizes(simt_backend: Backend, dtype: str, shape: tuple[int, ...]) -> None:
    check(simt_backend, 3, *shape, dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_order_of_memory(simt_backend: Backend, layout: str) -> None:
    check(simt_backend, 3, 2, 8, 3, 5, layout=layout)


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(LAYOUTS, 2)])
def test_the_result_lies_as_the_first_array(simt_backend: Backend, first: str, second: str) -> None:
    arrays = normal(2, 3, 4, 5, layout=first), normal(2, 3, 4, 5, layout=second, seed=1)
    layout = "channels last" if first == "channels last" else None
    compare(
        simt_backend,
        linear_combination,
        "linear_combination",
        *arrays,
        coefficients=(2.0, 0.5),
        layout=layout,
    )


def test_one_array_as_two_terms(simt_backend: Backend) -> None:
    x = normal(2, 3)
    given = simt_backend.from_numpy(x)
    y = ops.linear_combination([given, given], coefficients=(1.0, -0.5))
    np.testing.assert_array_equal(simt_backend.to_numpy(y), x / 2)


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(), DDIM(eta=0.5, use_clipped_model_output=True)], ids=str)
def test_steps_of_samplers(simt_backend: Backend, sampler: Any) -> None:
    sampler.set_timesteps(3)
    output, sample = normal(2, 3, 5, 7), normal(2, 3, 5, 7, seed=1)
    there = [simt_backend.from_numpy(x) for x in (output, sample)]
    for t in sampler.timesteps:
        expected = sampler.step(output, t, sample, rng=Generator(1)).prev_sample
        y = sampler.step(there[0], t, there[1], rng=Generator(1, simt_backend)).prev_sample
        np.testing.assert_allclose(simt_backend.to_numpy(y), expected, rtol=1e-4, atol=1e-5)


def test_what_is_left_to_the_generic_rule() -> None:
    backend = simt.backend()
    wide, single = (backend.from_numpy(np.zeros((1, 2), dtype)) for dtype in (np.float64, np.float32))
    assert linear_combination(backend.xp, wide, coefficients=(1.0,)) is NotImplemented
    assert linear_combination(backend.xp, *[single] * 9, coefficients=(1.0,) * 9) is NotImplemented
