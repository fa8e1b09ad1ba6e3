"""Every function of `minidiff.ops`, on every array library: the table of cases, what errors say, einops."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidiff import Parameter, Tensor, backward, get_backend, ops, record, value_and_grad
from minidiff.backend import Backend, backend_of
from minidiff.ops import constants
from minidiff.ops.support import dtype_name
from minidiff.random import Generator
from minidiff.testing import CASES, Case, check_case, check_gradient

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 4, 5, 5)).astype(np.float32)


def array(backend: Backend, *shape: int, dtype: str = "float32") -> Any:
    return backend.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(dtype))


# --- the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(backend: Backend, case: Case) -> None:
    check_case(backend, case)


def test_every_case_has_its_own_name() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)


def public_functions() -> set[str]:
    values = {name: getattr(ops, name) for name in ops.__all__}
    return {name for name, value in values.items() if callable(value) and not isinstance(value, type)}


def test_every_differentiable_function_is_in_the_table() -> None:
    constant = {
        *constants.NAMES, "finfo", "iinfo", "isdtype", "result_type", "stop_gradient",
        "arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "ones", "ones_like", "zeros",
        "zeros_like",
    }  # fmt: skip
    assert public_functions() - constant == {case.op for case in CASES}


def test_all_names_exist_and_dir_lists_them() -> None:
    assert sorted(set(ops.__all__)) == sorted(ops.__all__)
    assert set(dir(ops)) == set(ops.__all__)
    missing = {name for name in vars(ops) if callable(vars(ops)[name]) and not name.startswith("_")}
    assert missing - {"Any"} <= set(ops.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ops.nothing  # noqa: B018


def test_every_function_says_what_it_does() -> None:
    assert not [name for name in public_functions() if not getattr(ops, name).__doc__]


# --- numbers ---------------------------------------------------------------------------------------------


def test_erf_is_the_error_function(backend: Backend) -> None:
    x = np.concatenate([np.linspace(-12, 12, 2001), [0.46875, 4.0, -4.0, np.inf, -np.inf, np.nan]])
    got = backend.to_numpy(ops.erf(backend.from_numpy(x)))
    np.testing.assert_allclose(got, [math.erf(v) for v in x], rtol=2e-15, atol=1e-300)


@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu", "softmax", "log_softmax", "tanh", "logaddexp"])
def test_nothing_overflows(backend: Backend, name: str) -> None:
    x = backend.from_numpy(np.asarray([-1e4, -100.0, 0.0, 100.0, 1e4], np.float32))
    arguments = (x, x) if name == "logaddexp" else (x,)
    value, grads = value_and_grad(
        lambda: ops.sum(getattr(ops, name)(*(parameter for _ in arguments))),
        {"x": (parameter := Parameter(x))},
    )()
    assert np.isfinite(backend.to_numpy(value))
    assert np.all(np.isfinite(backend.to_numpy(grads["x"])))


def test_binary_cross_entropy_of_certain_logits(backend: Backend) -> None:
    z = backend.from_numpy(np.asarray([-1e4, 1e4, -1e4, 1e4], np.float32))
    t = backend.from_numpy(np.asarray([0, 1, 1, 0], np.float32))
    losses = ops.binary_cross_entropy_with_logits(z, t, reduction="none")
    np.testing.assert_array_equal(backend.to_numpy(losses), [0, 0, 1e4, 1e4])


def test_a_class_that_is_ruled_out_costs_nothing(backend: Backend) -> None:
    z = backend.from_numpy(np.asarray([[0.0, 0.0, -np.inf]], np.float32))
    loss = ops.cross_entropy(z, backend.from_numpy(np.asarray([1])))
    np.testing.assert_allclose(backend.to_numpy(loss), math.log(2), rtol=1e-6)


def test_group_norm_keeps_its_precision_far_from_zero(backend: Backend) -> None:
    x = RNG.standard_normal((1, 2, 16, 16))
    y = ops.group_norm(backend.from_numpy((x + 1000).astype(np.float32)), groups=1)
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    np.testing.assert_allclose(backend.to_numpy(y), expected, atol=2e-4)


def test_half_precision_is_summed_in_float32() -> None:
    x = np.full((1, 4096), 1.0, np.float16)
    assert ops.sum(x) == 4096
    assert ops.matmul(x, x.T)[0, 0] == 4096
    assert ops.linear(x, x)[0, 0] == 4096
    assert ops.mean(np.full(100_000, 1.0, np.float16)) == 1.0  # whose sum is beyond float16


def test_gradients_of_half_precision_are_summed_in_float32() -> None:
    p = Parameter(np.ones((1, 2), np.float16))
    with record():
        loss = ops.sum(ops.add(p, np.zeros((4096, 2), np.float16)), dtype="float32")
    np.testing.assert_array_equal(
        backward(loss).wrt(p), [[4096, 4096]]
    )  # by rows of ones it would stop at 2048


def test_bfloat16_is_summed_in_float32() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    total = ops.sum(np.ones(512, bfloat16))
    assert total.dtype == bfloat16
    assert float(total) == 512


def test_a_query_without_keys_looks_at_all_alike(backend: Backend) -> None:
    q, k, v = (array(backend, 2, 3, dtype="float64") for _ in range(3))
    mask = backend.from_numpy(np.asarray([[True, False], [False, False]]))
    y = backend.to_numpy(ops.scaled_dot_product_attention(q, k, v, mask=mask))
    np.testing.assert_allclose(y[1], backend.to_numpy(v).mean(axis=0))


def test_rows_are_added_up_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minidiff.ops.indexing._LARGEST_ONE_HOT", 8)
    indices = np.asarray([0, 2, 2, 1, 0, 2, 2])
    check_gradient(lambda table: ops.embedding(indices, table), RNG.standard_normal((3, 2)))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_labels_of_any_integer_type(backend: Backend, dtype: str) -> None:
    labels = np.asarray([3, 1, 3]).astype(dtype)
    table = RNG.standard_normal((300, 2))  # more rows than uint8 has numbers

    def loss(weight: Any) -> Any:
        return ops.cross_entropy(
            ops.embedding(backend.from_numpy(labels), weight), backend.from_numpy(labels % 2)
        )

    check_gradient(loss, table, backend=backend)


def test_equal_values_share_a_gradient(backend: Backend) -> None:
    x = backend.from_numpy(np.asarray([2.0, 1.0, 2.0]))
    functions: list[tuple[Callable[[Any], Any], list[float]]] = [
        (lambda p: ops.max(p), [0.5, 0, 0.5]),
        (lambda p: ops.sum(ops.maximum(p, 2.0)), [0.5, 0, 0.5]),
        (lambda p: ops.sum(ops.relu(p - 2.0)), [0, 0, 0]),
        (lambda p: ops.sum(ops.abs(p - 1.0)), [1, 0, 1]),
    ]
    for fn, expected in functions:
        p = Parameter(x)
        with record():
            loss = fn(p)
        np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p)), expected)


def test_max_pool_gives_the_first_of_equal_pixels_the_gradient(backend: Backend) -> None:
    p = Parameter(backend.from_numpy(np.ones((1, 1, 2, 2))))
    with record():
        loss = ops.sum(ops.max_pool2d(p, 2))
    np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p))[0, 0], [[1, 0], [0, 0]])


def test_powers_of_zero(backend: Backend) -> None:
    p = Parameter(backend.from_numpy(np.asarray([0.0, 2.0])))
    for exponent, expected in ((0, [0, 0]), (1, [1, 1]), (2, [0, 4]), (3.0, [0, 12])):
        with record():
            loss = ops.sum(p**exponent)
        np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p)), expected)
        with record():
            loss = ops.sum(ops.pow(p, ops.full_like(p, exponent)))
        np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p)), expected)


# --- dtypes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [np.float64(0.1), np.float32(0.1), np.int64(3)], ids=repr)
def test_a_numpy_scalar_does_not_promote(number: Any) -> None:
    x = np.ones(3, np.float32)
    for result in (ops.add(x, number), ops.multiply(number, x), ops.maximum(x, number), ops.pow(x, number)):
        assert result.dtype == np.float32


def test_a_gradient_has_the_dtype_of_its_parameter(backend: Backend) -> None:
    narrow, wide = (Parameter(array(backend, 3, dtype=dtype)) for dtype in ("float32", "float64"))
    for fn in (ops.add, ops.subtract, ops.multiply, ops.divide, lambda a, b: ops.concat([a, b])):
        with record():
            loss = ops.sum(fn(narrow, wide))
        grads = backward(loss)
        assert dtype_name(grads.wrt(narrow).dtype) == "float32"
        assert dtype_name(grads.wrt(wide).dtype) == "float64"


def test_losses_of_half_precision_are_float32() -> None:
    p = Parameter(np.full(3, 300.0, np.float16))
    with record():
        loss = ops.mse_loss(p, np.zeros(3, np.float16))
    assert loss.dtype == np.float32
    assert float(loss) == 90000  # beyond float16
    assert backward(loss).wrt(p).dtype == np.float16


def test_dtypes_of_every_library_are_understood(backend: Backend) -> None:
    x = array(backend, 3)
    for dtype in ("float64", ops.float64, np.float64, backend.xp.float64):
        assert ops.astype(x, dtype).dtype == backend.xp.float64
        assert ops.isdtype(dtype, "real floating")
        assert ops.finfo(dtype).bits == 64
        assert ops.zeros_like(x, dtype=dtype).dtype == backend.xp.float64
    assert ops.finfo(x).bits == 32
    assert ops.result_type(x, ops.float64) == backend.xp.float64


def test_no_rule_computes_in_float64_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    """`record` would hide it, as it converts gradients to the dtypes of their arrays."""
    met: set[str] = set()

    def astype(x: Any, dtype: Any, /, **options: Any) -> Any:
        if dtype_name(x.dtype) == "float64" and dtype_name(dtype) == "float32":
            met.add("float64")
        return x.astype(dtype, **options)

    xp = get_backend("cpu").xp
    monkeypatch.setattr(xp, "astype", astype)
    for case in CASES:
        inputs = [
            x.astype(np.float32) if getattr(x, "dtype", None) == np.float64 else x for x in case.hosts()
        ]
        tensors = [Parameter(x) if getattr(x, "dtype", None) == np.float32 else x for x in inputs]
        with record():
            loss = sum(ops.sum(y) for y in case.call(get_backend("cpu"), tensors))
        met.clear()
        backward(loss)
        assert not met or not case.keeps_dtype, case


# --- creation and constants ------------------------------------------------------------------------------


def test_creation_on_a_device(backend: Backend) -> None:
    for made, expected in (
        (ops.zeros((2, 3), dtype="float32", device=backend.device), np.zeros((2, 3), np.float32)),
        (ops.arange(2, 8, 3, device=backend.device), np.arange(2, 8, 3)),
        (ops.linspace(0.0, 1.0, 5, device=backend.device), np.linspace(0, 1, 5)),
        (ops.eye(3, k=1, device=backend.device), np.eye(3, k=1)),
        (ops.full((2,), 7.0, device=backend.device), np.full(2, 7.0)),
        (ops.asarray([1.0, 2.0], dtype=ops.float64, device=backend.device), np.asarray([1.0, 2.0])),
    ):
        assert isinstance(made, backend.array_type)
        np.testing.assert_array_equal(backend.to_numpy(made), expected)
        assert backend.to_numpy(made).dtype == expected.dtype


def test_functions_without_a_gradient_return_plain_arrays(backend: Backend) -> None:
    p = Parameter(backend.from_numpy(np.asarray([1.0, -2.0, 3.0])))
    with record():
        assert backend.to_numpy(ops.argmax(p)) == 2
        results: list[Any] = [ops.sign(p), p > 0, p >= 0.0, p != p, ops.less(0.0, p), ops.isnan(p)]
        for made in results:
            assert made.shape == (3,)
            assert isinstance(made, backend.array_type)
    np.testing.assert_array_equal(backend.to_numpy(p > 0), [True, False, True])
    np.testing.assert_array_equal(backend.to_numpy(0 < p), [True, False, True])  # noqa: SIM300
    np.testing.assert_array_equal(backend.to_numpy(p == 1), [True, False, False])
    with pytest.raises(TypeError, match="argmax: expected at least one array"):
        ops.argmax([1, 2])


# --- what is remembered ----------------------------------------------------------------------------------

FORGETFUL: dict[str, Callable[[Any], Any]] = {
    "add": lambda h: ops.add(h, 1.0),
    "add an array": lambda h: ops.add(h, np.ones((4, 4))),
    "subtract": lambda h: ops.subtract(np.ones((4, 4)), h),
    "multiply by a number": lambda h: ops.multiply(h, 2.0),
    "divide by a number": lambda h: ops.divide(h, 2.0),
    "negative": ops.negative,
    "sum": ops.sum,
    "mean": ops.mean,
    "concat": lambda h: ops.concat([h, np.ones((4, 4))]),
    "stack": lambda h: ops.stack([h, np.ones((4, 4))]),
    "pad": lambda h: ops.pad(h, ((1, 1), (1, 1))),
    "where": lambda h: ops.where(np.eye(4) > 0, h, 0.0),
    "astype": lambda h: ops.astype(h, "float32"),
    "relu": ops.relu,
    "softmax": ops.softmax,
    "exp": ops.exp,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "layer_norm": ops.layer_norm,
    "avg_pool2d": lambda h: ops.avg_pool2d(ops.reshape(h, (1, 1, 4, 4)), 2),
    "upsample2d": lambda h: ops.upsample2d(ops.reshape(h, (1, 1, 4, 4)), 2),
    "mse_loss": lambda h: ops.mse_loss(h, np.ones((4, 4))),
}


@pytest.mark.parametrize("fn", FORGETFUL.values(), ids=FORGETFUL)
def test_a_rule_does_not_remember_an_input_it_does_not_need(fn: Callable[[Any], Any]) -> None:
    p = Parameter(np.ones((4, 4)))
    with record():
        h = ops.square(p)
        data = weakref.ref(h.data)
        y = fn(h)
        del h
    gc.collect()
    assert isinstance(y, Tensor)
    assert data() is None


# --- third-party code ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "pattern", "arguments"),
    [
        ("rearrange", "n c (h a) (w b) -> n (c a b) h w", {"a": 2, "b": 2}),
        ("rearrange", "n c h w -> n (h w) c", {}),
        ("reduce", "n c h w -> n c", {"reduction": "mean"}),
        ("reduce", "n c (h a) (w b) -> n c h w", {"reduction": "max", "a": 2, "b": 2}),
        ("repeat", "n c h w -> n c h (w r)", {"r": 2}),
    ],
)
def test_einops_differentiates(
    backend: Backend, function: str, pattern: str, arguments: dict[str, Any]
) -> None:
    einops = pytest.importorskip("einops.array_api")
    assert (
        check_gradient(
            lambda x: getattr(einops, function)(x, pattern, **arguments),
            RNG.standard_normal((2, 3, 4, 4)),
            backend=backend,
        )
        < 1e-8
    )


def test_dropout_scales_what_it_keeps(backend: Backend) -> None:
    x = backend.xp.ones((200, 200), dtype=backend.xp.float32)
    y = backend.to_numpy(ops.dropout(x, 0.25, rng=Generator(3, backend)))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 0.02
    assert backend_of(x) is backend
