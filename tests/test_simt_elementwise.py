"""Element-wise functions, resampling, softmax and embedding: the CUDA kernels against the generic rules in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from array_api_compat import numpy as host

from minidiff import ops
from minidiff.backend import Backend
from minidiff_cupy import elementwise, engine, resampling, sums
from minidiff_cupy.embedding import embedding
from minidiff_cupy.softmax import log_softmax, softmax
from tests import simt
from tests.simt import namespace
from tests.simt_comparison import LAYOUTS, compare, normal, on_device, run

HALF = ("float16", "bfloat16")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so few blocks run that threads take turns."""
    for module in (elementwise, resampling):
        monkeypatch.setattr(module, "_BLOCKS", 1)
        monkeypatch.setattr(module, "_THREADS", 32)


# --- functions of one array ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "sigmoid", "silu", "square", "tanh", "negative"])
def test_functions(simt_backend: Backend, name: str) -> None:
    x = 3 * normal(2, 8, 3, 5, layout="channels last")
    compare(simt_backend, getattr(elementwise, name), name, x, layout="channels last")


@pytest.mark.parametrize("approximate", [None, "tanh"])
def test_gelu(simt_backend: Backend, approximate: str | None) -> None:
    compare(simt_backend, elementwise.gelu, "gelu", 3 * normal(4, 33), approximate=approximate)


@pytest.mark.parametrize("name", ["silu", "sigmoid"])
def test_far_from_zero(simt_backend: Backend, name: str) -> None:
    x = np.array([-1e4, -200, -89, -88, -15, 15, 88, 89, 200, 1e4], np.float32)
    compare(simt_backend, getattr(elementwise, name), name, x)


@pytest.mark.parametrize("dtype", HALF)
def test_functions_in_half_precision(simt_backend: Backend, dtype: str) -> None:
    x = normal(2, 8, 3, 5, dtype=dtype, layout="channels last")
    compare(simt_backend, elementwise.silu, "silu", x, layout="channels last")


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 1, 1, 1), (3, 1, 5), (2, 2, 2, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_shape(simt_backend: Backend, shape: tuple[int, ...], layout: str) -> None:
    x = normal(*shape, layout=layout if shape else "C")
    compare(simt_backend, elementwise.square, "square", x)


@pytest.mark.usefixtures("threads")
def test_threads_take_turns(simt_backend: Backend) -> None:
    compare(simt_backend, elementwise.square, "square", normal(300))


def test_indices_of_64_bits(simt_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "LARGEST", 10)
    elementwise._plan.cache_clear()
    compare(
        simt_backend, elementwise.add, "add", normal(2, 8, 3, 5, layout="channels last"), normal(2, 8, 1, 1)
    )
    elementwise._plan.cache_clear()


def test_memory_that_is_not_aligned(simt_backend: Backend) -> None:
    compare(simt_backend, elementwise.add, "add", normal(33)[1:], normal(32))


# --- arithmetic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "subtract", "multiply"])
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 8, 3, 5), (2, 8, 3, 5)),
        ((2, 8, 3, 5), (2, 8, 1, 1)),
        ((8, 1, 1), (2, 8, 3, 5)),
        ((2, 1, 3, 5), (2, 8, 3, 5)),
        ((2, 8, 3, 5), (5,)),
        ((2, 3, 4, 5), (3, 1, 5)),
        ((1, 1), (1,)),
        ((0, 3), (3,)),
    ],
    ids=str,
)
def test_arithmetic(simt_backend: Backend, name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    x1, x2 = (normal(*shape, layout="channels last") for shape in shapes)
    compare(simt_backend, getattr(elementwise, name), name, x1, x2, layout="channels last")


def test_two_orders_of_memory(simt_backend: Backend) -> None:
    x1, x2 = normal(2, 8, 3, 5, layout="channels last"), normal(2, 8, 3, 5)
    compare(simt_backend, elementwise.add, "add", x1, x2, layout="channels last")


def test_neither_operand_has_the_shape(simt_backend: Backend) -> None:
    compare(simt_backend, elementwise.multiply, "multiply", normal(4, 1, 3), normal(2, 1))


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
def test_a_number_on_the_right(simt_backend: Backend, name: str) -> None:
    x = normal(2, 8, 3, 5, layout="channels last")
    compare(simt_backend, getattr(elementwise, name), name, x, 1.75, layout="channels last")


@pytest.mark.parametrize("name", ["add", "subtract", "multiply"])
def test_a_number_on_the_left(simt_backend: Backend, name: str) -> None:
    compare(simt_backend, getattr(elementwise, name), name, 3, normal(2, 8, 3, 5))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["add", "multiply"])
def test_time_embeddings_in_half_precision(simt_backend: Backend, name: str, dtype: str) -> None:
    x1, x2 = normal(2, 8, 9, 9, dtype=dtype, layout="channels last"), normal(2, 8, 1, 1, dtype=dtype)
    compare(simt_backend, getattr(elementwise, name), name, x1, x2, layout="channels last")


def test_long_sums_are_split(simt_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_LEAST", 8)
    x1, x2 = normal(1, 5, 9, 9, layout="channels last"), normal(1, 5, 1, 1)
    compare(simt_backend, elementwise.add, "add", x1, x2, layout="channels last")


# --- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.7), (None, 0.7), (-0.3, None), (0, 1), (0.5, 0.5)])
def test_clip(simt_backend: Backend, low: float | None, high: float | None, dtype: str) -> None:
    x = normal(2, 8, 3, 5, dtype=dtype, layout="channels last")
    x[0, 0, 0, :2] = [0.7, -0.3]  # the gradient at a limit passes, and it is the number as x has it
    exact = [limit if limit is None else float(x.dtype.type(limit)) for limit in (low, high)]
    compare(simt_backend, elementwise.clip, "clip", x, *exact, layout="channels last")
    given = on_device(simt_backend, x)
    y, vjp = elementwise.clip(simt_backend.xp, given, low, high)
    expected, expected_vjp = ops.clip.rule(host, x, low, high)
    np.testing.assert_array_equal(simt_backend.to_numpy(y), expected)
    np.testing.assert_array_equal(simt_backend.to_numpy(vjp(given)[0]), expected_vjp(x)[0])


def test_what_is_no_number_is_not_clipped_and_has_no_gradient(simt_backend: Backend) -> None:
    x = on_device(simt_backend, np.array([np.nan, np.inf, -np.inf], np.float32))
    y, vjp = elementwise.clip(simt_backend.xp, x, -1.0, None)
    np.testing.assert_array_equal(simt_backend.to_numpy(y), [np.nan, np.inf, -1])
    np.testing.assert_array_equal(simt_backend.to_numpy(vjp(simt_backend.xp.ones_like(x))[0]), [0, 1, 0])


# --- concat and pad --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["C", "channels last"])
@pytest.mark.parametrize("channels", [(8, 4), (3, 5, 1), (4, 0, 4)], ids=str)
def test_concat_along_channels(simt_backend: Backend, channels: tuple[int, ...], layout: str) -> None:
    arrays = [normal(2, c, 3, 5, layout=layout) for c in channels]
    compare(simt_backend, elementwise.concat, "concat", *arrays, axis=1, layout=layout)


@pytest.mark.parametrize("axis", [0, -1])
def test_concat_along_another_axis(simt_backend: Backend, axis: int) -> None:
    arrays = [normal(2, 8, 3, 3, dtype="float16", layout="channels last", seed=i) for i in range(2)]
    compare(simt_backend, elementwise.concat, "concat", *arrays, axis=axis, layout="channels last")


def test_pad(simt_backend: Backend) -> None:
    x, sides = normal(2, 8, 3, 5, layout="channels last"), [(0, 0), (0, 0), (0, 1), (2, 0)]
    compare(simt_backend, elementwise.pad, "pad", x, sides, value=0.5, layout="channels last")


# --- resampling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("shape", "scale"), [((2, 8, 3, 2), 2), ((1, 3, 1, 4), 3), ((2, 4, 2, 2), 1)], ids=str
)
def test_upsample2d(simt_backend: Backend, shape: tuple[int, ...], scale: int, mode: str) -> None:
    x = normal(*shape, layout="channels last")
    compare(simt_backend, resampling.upsample2d, "upsample2d", x, scale, mode=mode, layout="channels last")


POOLINGS: list[tuple[Any, Any, Any]] = [
    ((5, 7), 2, None),
    ((5, 6), 3, 1),
    ((5, 6), (2, 3), (1, 2)),
    ((5, 5), 2, 3),
    ((3, 3), 3, None),
]


@pytest.mark.parametrize("name", ["avg_pool2d", "max_pool2d"])
@pytest.mark.parametrize(("sides", "kernel", "stride"), POOLINGS, ids=str)
def test_pooling(simt_backend: Backend, name: str, sides: Any, kernel: Any, stride: Any) -> None:
    x = np.round(normal(2, 4, *sides, layout="channels last"))  # with many equal pixels
    pool = getattr(resampling, name)
    compare(simt_backend, pool, name, x, kernel, stride=stride, layout="channels last")


@pytest.mark.parametrize("name", ["avg_pool2d", "max_pool2d", "upsample2d"])
@pytest.mark.parametrize("dtype", HALF)
def test_resampling_in_half_precision(simt_backend: Backend, name: str, dtype: str) -> None:
    compare(simt_backend, getattr(resampling, name), name, normal(2, 3, 4, 6, dtype=dtype), 2)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["avg_pool2d", "max_pool2d", "upsample2d"])
def test_pixels_take_turns(simt_backend: Backend, name: str) -> None:
    compare(simt_backend, getattr(resampling, name), name, normal(2, 3, 6, 6), 2)


def test_max_pool2d_keeps_what_is_not_a_number(simt_backend: Backend) -> None:
    x = normal(1, 4, 4, 4)
    x[0, 1, 2, 3] = np.nan
    y, _ = run(resampling.max_pool2d, "max_pool2d", simt_backend.xp, (simt_backend.from_numpy(x), 2), {})
    expected = np.zeros((1, 4, 2, 2), bool)
    expected[0, 1, 1, 1] = True
    np.testing.assert_array_equal(np.isnan(simt_backend.to_numpy(y)), expected)


# --- softmax ---------------------------------------------------------------------------------------------

SOFTMAX: dict[str, Callable[..., Any]] = {"softmax": softmax, "log_softmax": log_softmax}


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 5), -1), ((2, 3, 4), 0), ((2, 300), 1), ((9, 136), -1)], ids=str
)
def test_softmax(simt_backend: Backend, name: str, shape: tuple[int, ...], axis: int) -> None:
    compare(simt_backend, SOFTMAX[name], name, 4 * normal(*shape), axis=axis)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_in_half_precision(simt_backend: Backend, name: str, dtype: str) -> None:
    x = normal(3, 40, dtype=dtype) * normal(1, dtype=dtype).dtype.type(4)
    compare(simt_backend, SOFTMAX[name], name, x)


@pytest.mark.parametrize("name", SOFTMAX)
def test_softmax_of_large_numbers(simt_backend: Backend, name: str) -> None:
    x = normal(2, 40) + np.float32(1000)
    compare(simt_backend, SOFTMAX[name], name, x)
    compare(simt_backend, SOFTMAX[name], name, -x)


def test_softmax_of_masked_numbers(simt_backend: Backend) -> None:
    x = normal(2, 40)
    x[:, 5:29] = -np.inf
    x[0, :8] = -np.inf
    compare(simt_backend, softmax, "softmax", x)


def test_softmax_rows_take_turns(simt_backend: Backend) -> None:
    with simt.device(multiprocessors=1):
        compare(simt_backend, softmax, "softmax", normal(140, 3))


# --- embedding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize("shape", [(77,), (2, 3), ()], ids=str)
def test_embedding(simt_backend: Backend, shape: tuple[int, ...], dtype: str) -> None:
    indices = np.random.default_rng(0).integers(0, 5, size=shape)
    compare(simt_backend, embedding, "embedding", indices, normal(6, 45, dtype=dtype))


@pytest.mark.parametrize("index", [-1, 6])
def test_an_index_outside_the_table(simt_backend: Backend, index: int) -> None:
    indices, weight = on_device(simt_backend, np.array([0, index, 5])), on_device(simt_backend, normal(6, 4))
    with pytest.raises(IndexError, match=f"embedding: index {index} is outside 0 to 5"):
        embedding(simt_backend.xp, indices, weight)


@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_an_index_outside_the_table_in_a_graph(
    simt_backend: Backend, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Nobody can raise then, so the row must show it; memory is full of zeros before."""
    monkeypatch.setattr(namespace, "empty", namespace.zeros)
    weight = normal(6, 45, dtype=dtype)
    indices = on_device(simt_backend, np.array([0, -1, 5, 6, 3]))
    with engine.capture():
        y, _ = embedding(simt_backend.xp, indices, on_device(simt_backend, weight))
    rows = simt_backend.to_numpy(y).astype(np.float32)
    assert np.isnan(rows[[1, 3]]).all()
    np.testing.assert_array_equal(rows[[0, 2, 4]], weight[[0, 5, 3]].astype(np.float32))


# --- what is not served ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "name", "arrays"),
    [
        (elementwise.silu, "silu", (normal(2, 3).astype(np.float64),)),
        (elementwise.add, "add", (normal(2, 3), normal(2, 3).astype(np.float16))),
        (elementwise.add, "add", (np.arange(3), 2)),
        (elementwise.clip, "clip", (normal(2, 3), 1.0, 0.0)),
        (elementwise.clip, "clip", (normal(2, 3), normal(3), None)),
        (elementwise.divide, "divide", (normal(2, 3), normal(2, 3))),
        (elementwise.square, "square", (normal(1, 1, 1, 1, 1, 1, 1),)),
        (resampling.upsample2d, "upsample2d", (normal(1, 1, 2, 2).astype(np.float64), 2)),
        (softmax, "softmax", (normal(0, 3),)),
        (embedding, "embedding", (np.zeros(0, np.int64), normal(6, 4))),
    ],
)
def test_the_rest_is_left_to_the_generic_rule(rule: Any, name: str, arrays: tuple[Any, ...]) -> None:
    backend = simt.backend()
    given = tuple(on_device(backend, x) for x in arrays)
    assert run(rule, name, backend.xp, given, {}) is NotImplemented


def test_no_elements(simt_backend: Backend) -> None:
    compare(simt_backend, elementwise.silu, "silu", normal(0, 3))
    compare(simt_backend, elementwise.add, "add", normal(0, 4, 3, 3), normal(1, 4, 1, 1))
    compare(simt_backend, resampling.avg_pool2d, "avg_pool2d", normal(0, 3, 4, 4), 2)
    compare(simt_backend, resampling.max_pool2d, "max_pool2d", normal(0, 3, 4, 4), 2)
    compare(simt_backend, resampling.upsample2d, "upsample2d", normal(0, 3, 4, 4), 2)
