"""What the errors of `minidiff.ops` say: each names the numbers that do not fit, and the fix where it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidiff import Parameter, ops
from minidiff.backend import Backend
from minidiff.random import Generator


def array(backend: Backend, *shape: int, dtype: str = "float32") -> Any:
    return backend.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(dtype))


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
    (r"shift has shape \(4,\), expected \(2, 4\) for", call("conv2d", X, W, (4,), (4,))),
    (
        r"conv2d: residual has shape \(2, 4, 5, 5\), expected \(2, 4, 3, 3\) as the result has",
        call("conv2d", X, W, (4,), (2, 4), (2, 4, 5, 5)),
    ),
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
    (
        r"conv2d: mixed dtypes \(x is float32, weight is float32, shift is float64\); cast with ops.astype",
        lambda b: ops.conv2d(array(b, *X), array(b, *W), shift=array(b, 2, 4, dtype="float64")),
    ),
    ("conv2d: residual must be an array, got 1.0", call("conv2d", X, W, residual=1.0)),
    ("mse_loss: mixed dtypes", lambda b: ops.mse_loss(array(b, 2), array(b, 2, dtype="float64"))),
    (
        "mask is int64",
        lambda b: call("scaled_dot_product_attention", *[(2, 3)] * 3, mask=labels(b, 0, 1))(b),
    ),
    (
        r"scale has no gradient; pass stop_gradient\(scale\)",
        lambda b: call("scaled_dot_product_attention", *[(2, 3)] * 3, scale=Parameter(array(b)))(b),
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
        lambda b: call("conv2d", X, bias=array(b, 4))(b),
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
        "in minidiff.ops.conv2d(float32 array of shape (2, 3, 5, 5), float32 array of shape (4, 5, 3, 3), "
        "None, None, None)"
    )


def test_two_libraries_do_not_mix() -> None:
    torch = pytest.importorskip("torch")
    message = r"add: arrays of two libraries or devices, 'cpu' and 'torch' .* module.to\('torch'\)"
    with pytest.raises(TypeError, match=message):
        ops.add(np.ones(2), torch.ones(2))


def test_the_reciprocal_of_integers_is_not_cut_off(backend: Backend) -> None:
    x = backend.from_numpy(np.asarray([1, 2, 4]))
    if backend.device == "strict":  # the standard divides floating-point numbers only
        with pytest.raises(TypeError, match="floating"):
            ops.reciprocal(x)
        return
    np.testing.assert_allclose(backend.to_numpy(ops.reciprocal(x)), [1, 0.5, 0.25])
