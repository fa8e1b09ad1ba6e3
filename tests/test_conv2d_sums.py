"""What conv2d adds to its result: a shift of each image's channels, such as a time embedding, and a residual image."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from kernel_comparison import compare_images, laid_out, sharing  # noqa: F401

from minidiff import Parameter, backward, ops, precision, record, stop_gradient
from minidiff.backend import Backend
from minidiff.models.unet_2d_blocks import plain_style
from minidiff.models.unet_2d_parts import Factory
from minidiff.nn import Conv2d
from minidiff.random import Generator
from minidiff_cupy import engine, products
from minidiff_cupy.convolution import conv2d
from minidiff_numpy import convolution, plan
from tests import simt
from tests.simt.arrays import SimtArray
from tests.simt_comparison import compare, normal

Shape = tuple[int, ...]
SHAPES: list[tuple[Shape, Shape, Shape, dict[str, Any]]] = [  # images, filters, result, options
    ((2, 3, 5, 4), (4, 3, 3, 3), (2, 4, 5, 4), {"padding": 1}),
    ((2, 4, 5, 4), (6, 2, 3, 3), (2, 6, 3, 2), {"padding": 1, "stride": 2, "groups": 2}),
    ((3, 3, 2, 4), (5, 3, 1, 1), (3, 5, 2, 4), {}),
    ((0, 3, 2, 4), (5, 3, 1, 1), (0, 5, 2, 4), {}),
]


def written_out(
    x: Any, weight: Any, bias: Any = None, shift: Any = None, residual: Any = None, **options: Any
) -> Any:
    """The sum in as many steps as it has terms."""
    y = ops.conv2d(x, weight, **options)
    y = y if bias is None else ops.add(y, ops.reshape(bias, (1, -1, 1, 1)))
    y = y if shift is None else ops.add(y, shift[:, :, None, None])
    return y if residual is None else ops.add(y, residual)


@pytest.mark.parametrize("left_out", [(), ("shift",), ("residual",), ("bias",), ("bias", "shift")])
@pytest.mark.parametrize(("image", "filters", "result", "options"), SHAPES)
def test_results_and_gradients_are_those_of_the_sum_written_out(
    backend: Backend, image: Shape, filters: Shape, result: Shape, options: dict[str, Any], left_out: Shape
) -> None:
    rng = np.random.default_rng(0)
    shapes = {"x": image, "weight": filters, "bias": filters[:1], "shift": result[:2], "residual": result}
    given: dict[str, Any] = {
        name: Parameter(backend.from_numpy(rng.standard_normal(shape).astype(np.float32)))
        for name, shape in shapes.items()
        if name not in left_out
    }
    direction = backend.from_numpy(rng.standard_normal(result).astype(np.float32))
    found: list[dict[str, Any]] = []
    for function in (ops.conv2d, written_out):
        with record(given):
            y = function(**given, **options)
            loss = ops.sum(ops.multiply(y, direction))
        found.append({"result": stop_gradient(y), **backward(loss)})
    for name in ("result", *given):
        mine, expected = (backend.to_numpy(made[name]) for made in found)
        np.testing.assert_allclose(mine, expected, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("order", ["C", "NHWC", "strided"])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("side", [1, 9])
def test_the_kernels_of_the_cpu(
    batch: int, order: str, channels: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Winograd's bands, panels of a few rows, and the shares of the filters where these are more than pixels."""
    serves = convolution._is_winograds
    monkeypatch.setattr(convolution, "_is_winograds", lambda *args, least: serves(*args, least=1))
    monkeypatch.setattr(plan, "_PANEL_BYTES", 1500)
    rng = np.random.default_rng(1)
    for kernel in (1, 3):
        arrays = [
            laid_out(rng, shape, "float32", order)
            for shape in (
                (batch, channels, side, 7),
                (40, channels, kernel, kernel),
                (40,),
                (batch, 40),
                (batch, 40, side, 7),
            )
        ]
        compare_images("conv2d", *arrays, padding=kernel // 2)
        compare_images("conv2d", *arrays[:2], None, None, arrays[4], padding=kernel // 2)
        compare_images("conv2d", *arrays[:2], None, arrays[3], padding=kernel // 2)


CUDA = ((3, 48, 4, 5), (8, 48, 3, 3), (8,), (3, 8), (3, 8, 4, 5))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["C", "channels last", "strided"])
def test_the_kernels_of_cuda(simt_backend: Backend, dtype: str, layout: str) -> None:
    arrays = [normal(*shape, dtype=dtype, layout=layout) for shape in CUDA]
    with precision("exact"):
        compare(simt_backend, conv2d, "conv2d", *arrays, padding=1, layout="channels last")
        compare(simt_backend, conv2d, "conv2d", *arrays[:2], None, None, arrays[4], padding=1)


@pytest.mark.parametrize(
    ("parts", "files"), [(1, ["conv_correlate.cu"]), (7, ["conv_correlate.cu", "conv_finish.cu"])]
)
def test_cuda_adds_in_the_kernel_that_writes_the_result(
    parts: int, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the product's, or in the one that sums up parts: no other is launched, and CuPy computes nothing."""
    backend, load = simt.backend(), engine.load
    launched: Any = []
    arrays = [backend.from_numpy(normal(*shape, layout="channels last")) for shape in CUDA]
    monkeypatch.setattr(products, "_LEAST_STEPS", 1)
    monkeypatch.setattr(engine, "load", lambda xp, file, name: launched.append(file) or load(xp, file, name))
    monkeypatch.setattr(SimtArray, "__array_ufunc__", None)
    with simt.device(multiprocessors=parts):
        ops.conv2d(*arrays, padding=1)
    assert launched == files


@pytest.mark.parametrize("given", [("shift",), ("residual",), ("shift", "residual")])
def test_the_layer_passes_them_on(backend: Backend, given: tuple[str, ...]) -> None:
    rng = Generator(0, backend)
    layer, x = Conv2d(3, 4, 3, padding=1, rng=rng), rng.normal((2, 3, 5, 6))
    added = {name: rng.normal((2, 4, 5, 6)[: 2 if name == "shift" else 4]) for name in given}
    expected = written_out(x, layer.weight.data, layer.bias.data, padding=1, **added)  # type: ignore[union-attr]
    made = backend.to_numpy(layer(x, **added))
    np.testing.assert_allclose(made, backend.to_numpy(expected), rtol=0, atol=1e-5)


def test_a_recording_keeps_neither(backend: Backend) -> None:
    rng = Generator(0, backend)
    x, weight = rng.normal((2, 3, 4, 4)), Parameter(rng.normal((5, 3, 1, 1)))
    p = Parameter(rng.normal(()))
    with record():
        shift, residual = ops.multiply(rng.normal((2, 5)), p), ops.multiply(rng.normal((2, 5, 4, 4)), p)
        kept = [weakref.ref(tensor.data) for tensor in (shift, residual)]
        y = ops.conv2d(x, weight, None, shift, residual)
        del shift, residual
        assert [ref() for ref in kept] == [None, None]
        loss = ops.sum(y)
    assert backward(loss).wrt(p) is not None


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("width", [4, 8])
def test_residual_blocks_add_nothing_themselves(
    width: int, scale_shift: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the shift of a normalized image."""
    rng = Generator(0)
    added: Any = []
    factory = Factory(6, 1e-6, "silu", scale_shift, 0.0, None, rng)
    block = factory.resnet(4, width, plain_style(2, 2))
    add = ops.add
    monkeypatch.setattr(ops, "add", lambda a, b: added.append(a.shape) or add(a, b))
    block(rng.normal((2, 4, 5, 6)), rng.normal((2, 6)))
    assert len(added) == (2 if scale_shift else 0)
