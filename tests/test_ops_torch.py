"""Every function that PyTorch has, against PyTorch: results and gradients in float64, on NumPy arrays.

The tolerance is 1e-10. PyTorch is an outside reference: it shares no code with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidiff import Parameter, ops, value_and_grad

torch = pytest.importorskip("torch")
functional = torch.nn.functional
torch.set_num_threads(1)  # for arrays this small its threads only wait for each other

RNG = np.random.default_rng(0)
Function = Callable[..., Any]


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape)


def compare(ours: Function, theirs: Function, *arrays: Any) -> None:
    """Compare results and all gradients; integer and boolean arrays are constants."""
    tensors = [torch.from_numpy(a.copy()) if a is not None else None for a in arrays]
    for t in tensors:
        if t is not None and t.is_floating_point():
            t.requires_grad_(True)
    expected = theirs(*tensors)
    weights = normal(*expected.shape)
    (expected * torch.from_numpy(np.asarray(weights))).sum().backward()

    parameters = {
        str(i): Parameter(a) for i, a in enumerate(arrays) if a is not None and a.dtype == np.float64
    }
    inputs = [parameters.get(str(i), a) for i, a in enumerate(arrays)]
    np.testing.assert_allclose(ours(*inputs), expected.detach().numpy(), rtol=1e-10, atol=1e-10)
    _, grads = value_and_grad(lambda: ops.sum(ops.multiply(ours(*inputs), weights)), parameters)()
    for i, grad in grads.items():
        tensor: Any = tensors[int(i)]
        wanted = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        np.testing.assert_allclose(grad, wanted.numpy(), rtol=1e-10, atol=1e-10, err_msg=f"gradient {i}")


# --- convolution -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, (2, 1), 3])
@pytest.mark.parametrize("padding", [0, 1, 2, (1, 0)])
@pytest.mark.parametrize("dilation", [1, 2, (1, 2)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv2d(stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    compare(
        lambda x, w, b: ops.conv2d(x, w, b, **options),
        lambda x, w, b: functional.conv2d(x, w, b, **options),
        normal(2, 4, 7, 8),
        normal(4, 4 // groups, 3, 3),
        normal(4) if padding else None,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 1, "stride": 2, "groups": 2}])
def test_conv2d_with_shift_and_residual(bias: bool, shift: bool, residual: bool, options: Any) -> None:
    side = 3 if "stride" in options else 5

    def theirs(x: Any, w: Any, b: Any, shift: Any, residual: Any) -> Any:
        y = functional.conv2d(x, w, b, **options)
        y = y if shift is None else y + shift[:, :, None, None]
        return y if residual is None else y + residual

    compare(
        lambda *arrays: ops.conv2d(*arrays, **options),
        theirs,
        normal(2, 4, 5, 5),
        normal(6, 4 // options.get("groups", 1), 3, 3),
        normal(6) if bias else None,
        normal(2, 6) if shift else None,
        normal(2, 6, side, side) if residual else None,
    )


@pytest.mark.parametrize(
    ("sides", "kernel", "stride", "padding"),
    [
        ((8, 8), (4, 4), 2, 1),
        ((5, 6), (1, 1), 1, 0),
        ((5, 6), (1, 1), 2, 0),
        ((7, 7), (7, 7), 1, 3),
        ((6, 5), (2, 3), 2, (0, 1)),
        ((3, 3), (3, 3), 1, 0),
        ((32, 31), (3, 3), 1, 1),
    ],
)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_conv2d_of_other_shapes(sides: Any, kernel: Any, stride: Any, padding: Any, batch: int) -> None:
    options = {"stride": stride, "padding": padding}
    compare(
        lambda x, w, b: ops.conv2d(x, w, b, **options),
        lambda x, w, b: functional.conv2d(x, w, b, **options),
        normal(batch, 3, *sides),
        normal(5, 3, *kernel),
        normal(5),
    )


@pytest.mark.parametrize(
    ("stride", "padding", "output_padding", "dilation"),
    [
        (1, 0, 0, 1),
        (1, 1, 0, 1),
        (1, 2, 0, 2),
        (2, 0, 0, 1),
        (2, 1, 1, 1),
        ((2, 3), (1, 0), (1, 2), 1),
        (3, 1, (2, 0), 1),
        (1, 1, 1, 2),
        (2, 2, 1, (2, 3)),
    ],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 4), (2, 3)])
def test_conv_transpose2d(
    stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int, kernel: Any
) -> None:
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups}
    compare(
        lambda x, w, b: ops.conv_transpose2d(x, w, b, dilation=dilation, **options),
        lambda x, w, b: functional.conv_transpose2d(x, w, b, dilation=dilation, **options),
        normal(2, 4, 4, 5),
        normal(4, 3, *kernel),
        normal(3 * groups) if stride != 3 else None,
    )


# --- normalization ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "groups"),  # PyTorch refuses groups of one value
    [((2, 6), 1), ((2, 6), 2)]
    + [(s, g) for s in ((2, 6, 5), (2, 6, 4, 5), (2, 6, 2, 3, 2), (0, 6, 2, 2)) for g in (1, 2, 6)],
)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_group_norm(shape: tuple[int, ...], groups: int, activation: str | None) -> None:
    def theirs(x: Any, w: Any, b: Any) -> Any:
        y = functional.group_norm(x, groups, w, b, eps=1e-3)
        return functional.silu(y) if activation else y

    compare(
        lambda x, w, b: ops.group_norm(x, w, b, groups=groups, eps=1e-3, activation=activation),
        theirs,
        normal(*shape),
        normal(6),
        normal(6),
    )


def test_the_default_eps_is_that_of_pytorch() -> None:
    compare(
        lambda x, w, b: ops.group_norm(x * 1e-3, w, b, groups=2),
        lambda x, w, b: functional.group_norm(x * 1e-3, 2, w, b),
        normal(2, 6, 3, 3),
        normal(6),
        normal(6),
    )
    compare(lambda x: ops.layer_norm(x * 1e-3), lambda x: functional.layer_norm(x * 1e-3, (4,)), normal(3, 4))


@pytest.mark.parametrize("last", [1, 2, 3])
def test_layer_norm(last: int) -> None:
    shape = (2, 3, 4, 5)
    axis = tuple(range(4 - last, 4))
    compare(
        lambda x, w, b: ops.layer_norm(x, w, b, axis=axis),
        lambda x, w, b: functional.layer_norm(x, shape[-last:], w, b),
        normal(*shape),
        normal(*shape[-last:]),
        normal(*shape[-last:]),
    )


@pytest.mark.parametrize("last", [1, 2])
def test_rms_norm(last: int) -> None:
    shape = (2, 3, 4)
    compare(
        lambda x, w: ops.rms_norm(x, w, axis=tuple(range(3 - last, 3)), eps=1e-3),
        lambda x, w: functional.rms_norm(x, shape[-last:], w, eps=1e-3),
        normal(*shape),
        normal(*shape[-last:]),
    )


# --- attention, linear, embedding ------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(5, 5), (3, 7)])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_attention(lengths: tuple[int, int], scale: float | None) -> None:
    queries, keys = lengths
    arrays = normal(2, 3, queries, 4), normal(2, 3, keys, 4), normal(2, 3, keys, 6)
    theirs = functional.scaled_dot_product_attention
    compare(
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, scale=scale),
        lambda q, k, v: theirs(q, k, v, scale=scale),
        *arrays,
    )
    compare(
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, causal=True, scale=scale),
        lambda q, k, v: theirs(q, k, v, is_causal=True, scale=scale),
        *arrays,
    )
    for mask in (RNG.uniform(size=(queries, keys)) < 0.5, normal(2, 1, queries, keys)):
        mask[..., 0] = True  # a query without any key is nothing that PyTorch defines
        compare(
            lambda q, k, v, m: ops.scaled_dot_product_attention(q, k, v, mask=m, scale=scale),
            lambda q, k, v, m: theirs(q, k, v, attn_mask=m, scale=scale),
            *arrays,
            mask,
        )


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 5, 3), (0, 3)])
def test_linear(shape: tuple[int, ...]) -> None:
    compare(ops.linear, functional.linear, normal(*shape), normal(4, 3), normal(4))


def test_embedding() -> None:
    compare(ops.embedding, functional.embedding, RNG.integers(5, size=(3, 4)), normal(5, 6))


@pytest.mark.parametrize(
    ("a", "b"), [((3,), (3,)), ((2, 3), (3,)), ((3,), (2, 3, 4)), ((2, 1, 3, 4), (5, 4, 2)), ((0, 3), (3, 2))]
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    compare(ops.matmul, torch.matmul, normal(*a), normal(*b))


# --- activations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ops.relu, functional.relu),
        (ops.sigmoid, torch.sigmoid),
        (ops.tanh, torch.tanh),
        (ops.silu, functional.silu),
        (ops.gelu, functional.gelu),
        (lambda x: ops.gelu(x, approximate="tanh"), lambda x: functional.gelu(x, approximate="tanh")),
        (ops.erf, torch.erf),
        (ops.softmax, lambda x: torch.softmax(x, -1)),
        (lambda x: ops.softmax(x, axis=0), lambda x: torch.softmax(x, 0)),
        (ops.log_softmax, lambda x: torch.log_softmax(x, -1)),
        (lambda x: ops.clip(x, -1.0, 1.0), lambda x: torch.clamp(x, -1.0, 1.0)),
        (lambda x: ops.var(x, axis=1, correction=1), lambda x: torch.var(x, 1)),
        (lambda x: ops.std(x, axis=(0, 1)), lambda x: torch.std(x, (0, 1), correction=0)),
        (lambda x: ops.max(x, axis=1), lambda x: torch.amax(x, 1)),
        (lambda x: ops.cumulative_sum(x, axis=0), lambda x: torch.cumsum(x, 0)),
    ],
)
def test_functions_of_one_array(ours: Function, theirs: Function) -> None:
    compare(ours, theirs, 3 * normal(7, 9))


# --- resampling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride"), [(2, None), (3, 1), (3, 2), ((2, 3), (1, 2)), (2, 3), (1, 1)])
@pytest.mark.parametrize("sides", [(6, 6), (5, 7)])
def test_pooling(kernel: Any, stride: Any, sides: tuple[int, int]) -> None:
    for ours, theirs in (
        (ops.max_pool2d, functional.max_pool2d),
        (ops.avg_pool2d, functional.avg_pool2d),
    ):
        compare(
            lambda x, ours=ours: ours(x, kernel, stride=stride),
            lambda x, theirs=theirs: theirs(x, kernel, stride=stride),
            normal(2, 3, *sides),
        )


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_upsample2d(mode: str, scale: int) -> None:
    compare(
        lambda x: ops.upsample2d(x, scale, mode=mode),
        lambda x: functional.interpolate(x, scale_factor=scale, mode=mode),
        normal(2, 3, 4, 5),
    )


# --- losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(reduction: str) -> None:
    arrays = 2 * normal(4, 5), RNG.uniform(size=(4, 5))
    for ours, theirs in (
        (ops.mse_loss, functional.mse_loss),
        (ops.l1_loss, functional.l1_loss),
        (
            lambda *a, **o: ops.huber_loss(*a, delta=0.7, **o),
            lambda *a, **o: functional.huber_loss(*a, delta=0.7, **o),
        ),
        (ops.binary_cross_entropy_with_logits, functional.binary_cross_entropy_with_logits),
    ):
        compare(
            lambda x, t, ours=ours: ours(x, t, reduction=reduction),
            lambda x, t, theirs=theirs: theirs(x, t, reduction=reduction),
            *arrays,
        )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("positions", [(), (3,), (2, 3)])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy(reduction: str, positions: tuple[int, ...], soft: bool) -> None:
    target = RNG.uniform(size=(4, 5, *positions)) if soft else RNG.integers(5, size=(4, *positions))
    compare(
        lambda x, t: ops.cross_entropy(x, t, reduction=reduction),
        lambda x, t: functional.cross_entropy(x, t, reduction=reduction),
        3 * normal(4, 5, *positions),
        target,
    )
