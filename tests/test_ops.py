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
    for fn, expected in (
        (lambda p: ops.max(p), [0.5, 0, 0.5]),
        (lambda p: ops.sum(ops.maximum(p, 2.0)), [0.5, 0, 0.5]),
        (lambda p: ops.sum(ops.relu(p - 2.0)), [0, 0, 0]),
        (lambda p: ops.sum(ops.abs(p - 1.0)), [1, 0, 1]),
    ):
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
        for made in (ops.sign(p), p > 0, p >= 0.0, p != p, ops.less(0.0, p), ops.isnan(p)):
            assert isinstance(made, backend.array_type)
            assert made.shape == (3,)
    np.testing.assert_array_equal(backend.to_numpy(p > 0), [True, False, True])
    np.testing.assert_array_equal(backend.to_numpy(0 < p), [True, False, True])  # noqa: SIM300
    np.testing.assert_array_equal(backend.to_numpy(p == 1), [True, False, False])
    with pytest.raises(TypeError, match="argmax: expected at least one array"):
        ops.argmax([1, 2])


# --- errors ----------------------------------------------------------------------------------------------

Attempt = Callable[[Backend], Any]


def labels(backend: Backend, *values: int) -> Any:
    return backend.from_numpy(np.asarray(values))


def call(name: str, *shapes: tuple[int, ...], last: tuple[Any, ...] = (), **options: Any) -> Attempt:
    """A call with float32 arrays of these shapes, then the arguments `last`."""
    return lambda b: getattr(ops, name)(*(array(b, *shape) for shape in shapes), *last, **options)


X, W = (2, 3, 5, 5), (4, 3, 3, 3)  # images and filters that fit
SIX = (1, 6, 2, 2)

WRONG_VALUES: list[tuple[str, Attempt]] = [
    (r"x has 3 channels but weight expects 5 \(x \(2, 3, 5, 5\), weight ", call("conv2d", X, (4, 5, 3, 3))),
    ("2 groups do not divide 4 input and 3 output channels", call("conv2d", (2, 4, 5, 5), (3, 2, 3, 3), groups=2)),
    ("conv2d: 0 groups do not divide", call("conv2d", X, W, groups=0)),
    (r"larger than the padded image .*\(1, 1\)", call("conv2d", (2, 3, 2, 2), (4, 3, 5, 5), padding=1)),
    (r"bias has shape \(3,\), expected \(4,\)", call("conv2d", X, W, (3,))),
    (r"stride must be at least 1, got \(0, 1\)", call("conv2d", X, W, stride=(0, 1))),
    ("padding must be at least 0", call("conv2d", X, W, padding=-1)),
    (r"expected images of shape \(N, C, H, W\), got shape \(3, 5, 5\)", call("conv2d", (3, 5, 5), W)),
    (r"weight of four axes, got shape \(4, 3\)", call("conv2d", X, (4, 3))),
    ("x has 3 channels but weight expects 4", call("conv_transpose2d", X, W)),
    (r"output_padding \(2, 2\) must be below", call("conv_transpose2d", X, (3, 4, 3, 3), output_padding=2)),
    (r"output_padding \(-1, -1\)", call("conv_transpose2d", X, (3, 4, 3, 3), output_padding=-1)),
    ("no pixels left", call("conv_transpose2d", (2, 3, 1, 1), (3, 4, 1, 1), padding=1)),
    (r"4 groups do not divide 6 channels \(x has shape \(1, 6, 2, 2\)\)", call("group_norm", SIX, groups=4)),
    ("0 groups do not divide 6", call("group_norm", SIX, groups=0)),
    (r"weight has shape \(5,\), expected \(6,\)", call("group_norm", SIX, (5,), groups=2)),
    (r"bias has shape \(1,\), expected \(6,\)", call("group_norm", SIX, (6,), (1,), groups=2)),
    ("must be None or 'silu', got 'tanh'", call("group_norm", SIX, (6,), (6,), groups=2, activation="tanh")),
    (r"expected x of shape \(N, C, ...\)", call("group_norm", (6,), groups=2)),
    (r"axis 0 are not the last axes of an array of shape \(2, 3\)", call("layer_norm", (2, 3), axis=0)),
    (r"weight has shape \(2,\), expected \(3,\)", call("rms_norm", (2, 3), (2,))),
    (r"x has shape \(2, 3\), weight \(4, 5\)", call("linear", (2, 3), (4, 5))),
    (r"linear: bias has shape \(1,\), expected \(4,\)", call("linear", (2, 3), (4, 3), (1,))),
    (r"inner lengths differ \(\(2, 3\) @ \(4, 5\)\)", call("matmul", (2, 3), (4, 5))),
    ("numbers have no matrix product", call("matmul", (), (4, 5))),
    (
        r"agree in width, k and v in length \(q \(2, 3\), k \(5, 4\), v \(5, 4\)\)",
        call("scaled_dot_product_attention", (2, 3), (5, 4), (5, 4)),
    ),
    (r"\(3, 3\) pixels does not fit into x of shape \(1, 6, 2, 2\)", call("max_pool2d", SIX, last=(3,))),
    (r"kernel must be at least 1, got \(0, 0\)", call("avg_pool2d", SIX, last=(0,))),
    ("scale must be at least 1, got 0", call("upsample2d", SIX, last=(0,))),
    ("must be 'nearest' or 'bilinear', got 'cubic'", call("upsample2d", SIX, last=(2,), mode="cubic")),
    ("must be None or 'tanh', got 'sigmoid'", call("gelu", (2,), approximate="sigmoid")),
    (r"one of \['mean', 'none', 'sum'\], got 'avg'", call("mse_loss", (2,), (2,), reduction="avg")),
    ("reduction .* got 'avg'", lambda b: ops.cross_entropy(array(b, 1, 5), labels(b, 0), reduction="avg")),
    (r"target has shape \(3,\), expected \(2,\)", call("l1_loss", (2,), (3,))),
    ("delta must be above 0, got -1", call("huber_loss", (2,), (2,), delta=-1.0)),
    (
        r"target has shape \(3,\), expected \(2,\) for prediction \(2, 5\) with classes along axis 1",
        lambda b: ops.cross_entropy(array(b, 2, 5), labels(b, 0, 1, 2)),
    ),
    (r"weight of shape \(K, D\), got \(4,\)", lambda b: ops.embedding(labels(b, 0), array(b, 4))),
    (r"expected 2 pairs of numbers from 0 for shape \(2, 3\)", call("pad", (2, 3), last=(((1, 1),),))),
    ("pad: expected 2 pairs of numbers from 0", call("pad", (2, 3), last=(((1, -1), (0, 0)),))),
    (r"p must be in \[0, 1\), got 1.0", lambda b: ops.dropout(array(b, 2), 1.0, rng=Generator(0, b))),
]  # fmt: skip

WRONG_INDICES: list[tuple[str, Attempt]] = [
    ("class 5 is outside 0 to 4", lambda b: ops.cross_entropy(array(b, 2, 5), labels(b, 0, 5))),
    ("class -1 is outside 0 to 4", lambda b: ops.cross_entropy(array(b, 2, 5), labels(b, 0, -1))),
    (
        "class 7 is outside 0 to 4",
        lambda b: ops.cross_entropy(array(b, 5), b.from_numpy(np.asarray(7)), axis=0),
    ),
    ("embedding: index 4 is outside 0 to 3", lambda b: ops.embedding(labels(b, 0, 4), array(b, 4, 2))),
    ("embedding: index -1 is outside 0 to 3", lambda b: ops.embedding(labels(b, 0, -1), array(b, 4, 2))),
    ("axis 3 is not one of the 2", lambda b: ops.cross_entropy(array(b, 2, 5), labels(b, 0, 1), axis=3)),
    ("axis 5 is not one of the 2 axes", call("layer_norm", (2, 3), axis=5)),
    ("axis 4 is not one of the 2 axes", call("cumulative_sum", (2, 3), axis=4)),
    ("axis -3 is not one of the 2 axes", call("unstack", (2, 3), axis=-3)),
    ("axis 4 is not one of the 2 axes", call("repeat", (2, 3), last=(2,), axis=4)),
    ("axis 4 is not one of the 2 axes", lambda b: ops.concat([array(b, 2, 3)], axis=4)),
]

WRONG_TYPES: list[tuple[str, Attempt]] = [
    (
        r"conv2d: mixed dtypes \(x is float32, weight is float64\); cast with ops.astype",
        lambda b: ops.conv2d(array(b, *X), array(b, *W, dtype="float64")),
    ),
    (
        "conv2d: x is uint8; convert it to a floating dtype first",
        lambda b: ops.conv2d(b.from_numpy(np.zeros(X, np.uint8)), array(b, *W)),
    ),
    ("mse_loss: mixed dtypes", lambda b: ops.mse_loss(array(b, 2), array(b, 2, dtype="float64"))),
    (
        "mask is int64",
        lambda b: ops.scaled_dot_product_attention(*(array(b, 2, 3) for _ in range(3)), mask=labels(b, 0, 1)),
    ),
    (
        r"scale has no gradient; pass stop_gradient\(scale\)",
        lambda b: ops.scaled_dot_product_attention(
            *(array(b, 2, 3) for _ in range(3)), scale=Parameter(array(b))
        ),
    ),
    ("embedding: indices must be integers, got float32", call("embedding", (2,), (4, 2))),
    ("take: indices must be integers", call("take", (3,), (2,), axis=0)),
    ("getitem: a key holds integers, slices", call("getitem", (4,), last=([0, 0],))),
    ("use ops.take", lambda b: ops.getitem(array(b, 4), labels(b, 0, 0))),
    ("the number 0.5 does not fit into an array of int64", lambda b: ops.maximum(labels(b, 0, 1), 0.5)),
    ("to choose from, got 1.0 and 0.0", lambda b: ops.where(array(b, 2) > 0, 1.0, 0.0)),
    (r"add: expected at least one array, got \(1.0, 2\)", call("add", last=(1.0, 2))),
    (
        "missing 1 required positional argument: 'weight'",
        lambda b: ops.conv2d(array(b, *X), bias=array(b, 4)),
    ),
    ("conv2d: weight must be an array, got 3", call("conv2d", X, last=(3,))),
    (
        "cross_entropy: target must be an array, got 7",
        call("cross_entropy", (5,), last=(np.int64(7),), axis=0),
    ),
    ("embedding: indices must be an array, got 1", lambda b: ops.embedding(1, array(b, 4, 2))),
    ("colour", call("conv2d", X, W, colour=1)),
]

WRONG = [
    pytest.param(kind, message, attempt, id=message)
    for kind, rows in ((ValueError, WRONG_VALUES), (IndexError, WRONG_INDICES), (TypeError, WRONG_TYPES))
    for message, attempt in rows
]


@pytest.mark.parametrize(("kind", "message", "attempt"), WRONG)
def test_errors_name_the_numbers(
    backend: Backend, kind: type[Exception], message: str, attempt: Attempt
) -> None:
    with pytest.raises(kind, match=message):
        attempt(backend)


def test_errors_carry_the_call_in_a_note(backend: Backend) -> None:
    with pytest.raises(ValueError, match="channels") as caught:
        ops.conv2d(array(backend, 2, 3, 5, 5), array(backend, 4, 5, 3, 3))
    (note,) = caught.value.__notes__
    assert note == (
        "in minidiff.ops.conv2d(float32 array of shape (2, 3, 5, 5), float32 array of shape (4, 5, 3, 3), None)"
    )


def test_two_libraries_do_not_mix() -> None:
    torch = pytest.importorskip("torch")
    message = r"add: arrays of two libraries or devices, 'cpu' and 'torch' .* module.to\('torch'\)"
    with pytest.raises(TypeError, match=message):
        ops.add(np.ones(2), torch.ones(2))


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
