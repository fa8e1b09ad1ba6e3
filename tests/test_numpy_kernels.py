"""The kernels of the NumPy backend against the generic rules, in every geometry, memory order and size of panel."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import numpy as xp
from kernel_comparison import KERNELS, Array, compare_images, laid_out, order_of_memory, run, sharing  # noqa: F401

from minidiff import Generator, Parameter, backward, ops, record
from minidiff.models import UNet, UNet2DModel
from minidiff_numpy import blocks, convolution, memory, normalization, plan, resampling
from minidiff_numpy.layout import channels_last

pytestmark = pytest.mark.usefixtures("sharing")


def geometry(rng: np.random.Generator) -> dict[str, Any]:
    """Options of a convolution, rows and columns apart; paddings go beyond the kernel."""
    square = rng.random() < 0.5
    kernel = (int(rng.choice([1, 2, 3, 4, 5, 7])),) * 2 if square else tuple(map(int, rng.integers(1, 6, 2)))
    return {
        "kernel": kernel,
        "stride": tuple(map(int, rng.choice([1, 1, 2, 3], 2))) if rng.random() < 0.7 else 1,
        "padding": tuple(int(rng.integers(0, k + 2)) for k in kernel) if rng.random() < 0.7 else 0,
        "dilation": tuple(map(int, rng.choice([1, 1, 2, 3], 2))),
    }


def drawn(seed: int) -> tuple[np.random.Generator, dict[str, Any], Callable[..., Array]]:
    rng = np.random.default_rng(seed)
    dtype, order = rng.choice(["float32", "float64"]), str(rng.choice(["C", "NHWC", "strided"]))
    return rng, geometry(rng), lambda *shape: laid_out(rng, shape, dtype, order)


@pytest.fixture(params=[1 << 20, 1500])
def panel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels of several images, and of a few rows of one."""
    monkeypatch.setattr(plan, "_PANEL_BYTES", request.param)


@pytest.mark.usefixtures("panel", "order_of_memory")
@pytest.mark.parametrize("seed", range(100))
def test_conv2d(seed: int) -> None:
    rng, options, array = drawn(seed)
    kernel = options.pop("kernel")
    steps = zip(kernel, np.broadcast_to(options["padding"], 2), options["dilation"], strict=True)
    sides = [int(max(1, d * (k - 1) + 1 - 2 * p) + rng.integers(0, 10)) for k, p, d in steps]
    n, c, o = int(rng.integers(0, 4)), int(rng.choice([1, 3, 5])), int(rng.integers(1, 7))
    bias = array(o) if rng.random() < 0.7 else None
    compare_images("conv2d", array(n, c, *sides), array(o, c, *kernel), bias, **options)


@pytest.mark.usefixtures("panel", "order_of_memory")
@pytest.mark.parametrize("seed", range(100))
def test_conv_transpose2d(seed: int) -> None:
    rng, options, array = drawn(seed)
    kernel, dilation = options.pop("kernel"), options["dilation"]
    stride, padding = (np.broadcast_to(options[name], 2) for name in ("stride", "padding"))
    extra = [int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)]
    least = [
        max(1, -(-(2 * p - d * (k - 1) - e) // s) + 1)
        for k, p, d, s, e in zip(kernel, padding, dilation, stride, extra, strict=True)
    ]
    sides = [int(rng.integers(a, a + 6)) for a in least]
    n, c, o = int(rng.integers(0, 4)), int(rng.choice([1, 3, 5])), int(rng.integers(1, 7))
    bias = array(o) if rng.random() < 0.7 else None
    options["output_padding"] = tuple(extra)
    compare_images("conv_transpose2d", array(n, c, *sides), array(c, o, *kernel), bias, **options)


@pytest.mark.usefixtures("panel", "order_of_memory")
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(1, 1, 0), (1, 2, 0), (1, 1, 1), (2, 2, 0), (3, 1, 1), (3, 2, 1), (3, 1, 4), (4, 2, 1), (5, 1, 2), (7, 2, 3)],
)  # fmt: skip
@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["C", "NHWC"])
def test_convolutions_of_networks(
    kernel: int, stride: int, padding: int, batch: int, channels: int, order: str
) -> None:
    rng, options = np.random.default_rng(kernel), {"stride": stride, "padding": padding}
    weight, bias = laid_out(rng, (8, channels, kernel, kernel), "float32"), laid_out(rng, (8,), "float32")
    compare_images(
        "conv2d", laid_out(rng, (batch, channels, 12, 9), "float32", order), weight, bias, **options
    )
    compare_images(
        "conv_transpose2d", laid_out(rng, (batch, 8, 9, 10), "float32", order), weight, None, **options
    )


@pytest.mark.usefixtures("order_of_memory")
def test_an_output_padding_that_no_tap_reaches() -> None:
    """With stride 1 a dilation allows one, and the mirrored correlation would read past the image for it."""
    rng = np.random.default_rng(0)
    x, weight = laid_out(rng, (2, 3, 5, 6), "float64"), laid_out(rng, (3, 4, 3, 3), "float64")
    compare_images("conv_transpose2d", x, weight, None, dilation=3, output_padding=(2, 1))
    one = weight[:, :, :1, :1].copy()  # with padding 1 the sides stay, but the pixels move
    compare_images("conv_transpose2d", x, one, None, dilation=3, padding=1, output_padding=2)
    compare_images("conv2d", x[:, :, :3, :3].copy(), one.reshape(4, 3, 1, 1), None, stride=2, padding=1)


@pytest.mark.parametrize(("side", "batch"), [(96, 2), (20, 9)])
def test_panels_of_the_real_size(side: int, batch: int) -> None:
    """96 x 96 pixels are cut after 9 rows, 20 x 20 after 2 images; neither divides."""
    rng = np.random.default_rng(2)
    layout = plan.Plan((side, side), (side, side), (3, 3), (1, 1), (1, 1), (1, 1))
    tiles = [(n.stop - n.start, r.stop - r.start) for n, r in layout.tiles(batch, 32, 4, shares=2)]
    assert {96: {(1, 9), (1, 6)}, 20: {(2, 20), (1, 20)}}[side] == set(tiles)
    x, weight = laid_out(rng, (batch, 32, side, side), "float32"), laid_out(rng, (8, 32, 3, 3), "float32")
    compare_images("conv2d", x, weight, laid_out(rng, (8,), "float32"), padding=1)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("batch", "channels"), [(16, 16), (33, 64), (16, 700), (5000, 300)])
def test_tiles_of_few_pixels(batch: int, channels: int, apart: bool) -> None:
    """Every row of every image once, in panels of a megabyte or of one row of one image, and enough for three lanes."""
    layout = plan.Plan((8, 8), (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    tiles = layout.tiles(batch, channels, 4, shares=3, apart=apart)
    met = [(n, r) for images, rows in tiles for n in range(batch)[images] for r in range(8)[rows]]
    assert sorted(met) == [(n, r) for n in range(batch) for r in range(8)]
    row = 8 * 9 * channels * 4
    for images, rows in tiles:
        assert (images.stop - images.start) * (rows.stop - rows.start) * row <= max(row, 1 << 20)
    assert len({images.start for images, _ in tiles} if apart else tiles) >= 3


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2)])
def test_no_full_panel_is_ever_made(kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread of its own, which has no buffers from before."""
    rng = np.random.default_rng(3)
    x = laid_out(rng, (16, 64, 32, 32), "float32", "NHWC")
    weight, bias = laid_out(rng, (64, 64, kernel, kernel), "float32"), laid_out(rng, (64,), "float32")
    options = {"stride": stride, "padding": 1, "groups": 1, "dilation": 1}
    peaks = []

    def run() -> None:
        y, vjp = KERNELS["conv2d"](xp, x, weight, bias, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        for thunk in vjp(np.ones_like(y)):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            thunk()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)

    monkeypatch.setattr(memory, "_LARGE", 1 << 60)  # only what NumPy allocates is traced
    thread = threading.Thread(target=run)
    tracemalloc.start()
    try:
        thread.start()
        thread.join()
    finally:
        tracemalloc.stop()
    pixels = 16 * (32 // stride) ** 2
    arrays = x.nbytes + pixels * 64 * 4 + weight.nbytes
    full = pixels * kernel * kernel * 64 * 4
    assert full > 1.5 * arrays + (2 << 20)
    assert len(peaks) == 6
    assert max(peaks) < 1.5 * arrays + (2 << 20)


@pytest.mark.usefixtures("order_of_memory")
@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("activation", [None, "silu"])
def test_group_norm(seed: int, activation: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, _, array = drawn(seed)
    monkeypatch.setattr(blocks, "BLOCK", int(rng.choice([1, 300, 1 << 16])))
    groups, wide = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    n, h, w = int(rng.integers(0, 6)), int(rng.integers(2, 9)), int(rng.integers(1, 9))
    c = groups * wide
    compare_images(
        "group_norm", array(n, c, h, w), array(c), array(c), groups=groups, eps=0.01, activation=activation
    )


@pytest.mark.usefixtures("order_of_memory")
def test_group_norm_of_images_larger_than_a_block() -> None:
    rng = np.random.default_rng(4)
    x = laid_out(rng, (3, 16, 80, 72), "float32", "NHWC")
    compare_images(
        "group_norm", x, laid_out(rng, (16,), "float32"), laid_out(rng, (16,), "float32"), groups=4
    )


@pytest.mark.usefixtures("order_of_memory")
def test_group_norm_far_from_zero() -> None:
    rng = np.random.default_rng(5)
    far = (1000 + rng.normal(size=(4, 32, 32, 32))).astype(np.float32)
    weight, bias = rng.normal(size=(2, 32)).astype(np.float32)
    y, vjp = run(KERNELS["group_norm"], "group_norm", (far, weight, bias), {"groups": 8})
    wide = [a.astype(np.float64) for a in (far, weight, bias)]
    exact, exact_vjp = run(ops.group_norm.rule, "group_norm", tuple(wide), {"groups": 8})
    assert np.abs(y - exact).max() < 1e-4
    dy = rng.normal(size=far.shape)
    for mine, other in zip(vjp(dy.astype(np.float32)), exact_vjp(dy), strict=True):
        other = other() if callable(other) else other
        assert np.abs(mine - other).max() < 1e-4 * np.abs(other).max()


@pytest.mark.usefixtures("order_of_memory")
@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("scale", [1, 2, 3])
def test_upsample2d(seed: int, scale: int) -> None:
    rng, _, array = drawn(seed)
    compare_images(
        "upsample2d", array(*map(int, rng.integers(0, 4, 1)), *map(int, rng.integers(1, 6, 3))), scale=scale
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("batch", [2, 16])
@pytest.mark.parametrize("sides", [(0, 3), (3, 0), (0, 0)])
def test_images_without_pixels(batch: int, sides: tuple[int, int]) -> None:
    x, filters, ones = np.ones((batch, 4, *sides)), np.ones((4, 4, 3, 3)), np.ones(4)
    for function in (
        lambda p: ops.conv2d(p, filters, padding=2),
        lambda p: ops.conv_transpose2d(p, filters),
        lambda p: ops.group_norm(p, ones, ones, groups=2, activation="silu"),
        lambda p: ops.upsample2d(p, 2),
    ):
        parameter = Parameter(x)
        with record():
            loss = ops.sum(function(parameter))
        assert backward(loss).wrt(parameter).shape == x.shape


def left_to_the_rule() -> dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]]:
    rng = np.random.default_rng(6)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 6, 6), (4, 4, 3, 3), (4,)))
    calls: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
        "grouped": ("conv2d", (x, w[:, :2], b), {"groups": 2}),
        "grouped, transposed": ("conv_transpose2d", (x, w[:, :2], b), {"groups": 2}),
        "bilinear": ("upsample2d", (x,), {"scale": 2, "mode": "bilinear"}),
        "no weight": ("group_norm", (x, None, b), {"groups": 2}),
        "no bias": ("group_norm", (x, b, None), {"groups": 2}),
        "vectors": ("group_norm", (x[:, :, 0, 0], b, b), {"groups": 2}),
    }
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        half = tuple(a.astype(dtype) for a in (x, w, b))
        for name, arrays, options in (
            ("conv2d", half, {}),
            ("conv_transpose2d", half, {}),
            ("group_norm", (half[0], half[2], half[2]), {"groups": 2}),
            ("upsample2d", half[:1], {"scale": 2}),
        ):
            calls[f"{name} in {dtype}"] = (name, arrays, options)
    return calls


@pytest.mark.parametrize(("name", "arrays", "options"), left_to_the_rule().values(), ids=left_to_the_rule())
def test_what_a_kernel_does_not_serve_is_left_to_the_rule(name: str, arrays: Any, options: Any) -> None:
    assert run(KERNELS[name], name, arrays, options) is NotImplemented
    y = getattr(ops, name)(*arrays, **options)
    expected, _ = run(getattr(ops, name).rule, name, arrays, options)
    assert y.dtype == arrays[0].dtype
    np.testing.assert_array_equal(y, expected)


def test_operations_on_numpy_arrays_use_the_kernels() -> None:
    rng = np.random.default_rng(7)
    x, weight, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 6, 6), (4, 4, 3, 3), (4,)))
    for y in (
        ops.conv2d(x, weight, bias),
        ops.conv_transpose2d(x, weight, bias),
        ops.group_norm(x, bias, bias, groups=2),
        ops.upsample2d(x, 2),
    ):
        assert not y.flags.c_contiguous
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous


SMALL: dict[str, Any] = {
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "rng": Generator(0),
}


@pytest.mark.parametrize(
    "network",
    [
        UNet(3, 8, 3, attention=True),
        UNet2DModel(
            down_block_types=["AttnDownBlock2D"] * 2, up_block_types=["AttnUpBlock2D"] * 2, downsample_padding=0,
            attention_head_dim=4, **SMALL,
        ),
        UNet2DModel(
            down_block_types=["ResnetDownsampleBlock2D"] * 2, up_block_types=["ResnetUpsampleBlock2D"] * 2,
            resnet_time_scale_shift="scale_shift", **SMALL,
        ),
        UNet2DModel(
            down_block_types=["SkipDownBlock2D"] * 2, up_block_types=["SkipUpBlock2D"] * 2, **SMALL,
        ),
    ],
    ids=["UNet", "padded at one side", "pooled", "filtered"],
)  # fmt: skip
def test_a_forward_pass_reorders_nothing_but_its_input(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reordered = []

    def watched(x: Array) -> Array:
        if not x.transpose(0, 2, 3, 1).flags.c_contiguous:
            reordered.append(x.shape)
        return channels_last(x)

    for module in (convolution, normalization, resampling):
        monkeypatch.setattr(module, "channels_last", watched)
    x = np.random.default_rng(8).normal(size=(2, 3, 8, 8)).astype(np.float32)
    network(x, 5)
    assert set(reordered) == {(2, 3, 8, 8)}
