"""Winograd's algorithm: its algebra, every size and padding, how much it rounds, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_comparison import Array, compare_images, laid_out, order_of_memory, run, sharing  # noqa: F401

import minidiff
from minidiff import Generator, ops, value_and_grad
from minidiff.models import UNet
from minidiff.testing.conformance import without_kernels
from minidiff_numpy import all_pairs, convolution, winograd
from minidiff_numpy.convolution import conv2d

pytestmark = pytest.mark.usefixtures("sharing")


def test_the_transforms_make_a_correlation() -> None:
    """Along one axis: 4 results of 3 filter taps on 6 pixels, in exact arithmetic."""
    rng = np.random.default_rng(0)
    inputs, filters, results = winograd._transforms()
    pixels, taps = rng.normal(size=6), rng.normal(size=3)
    products = (inputs @ pixels) * (filters @ taps)
    np.testing.assert_allclose(results @ products, np.correlate(pixels, taps), rtol=1e-13)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """However small the image is; the list tells which of the three products were computed."""
    monkeypatch.setattr(all_pairs, "serves", lambda *_: False)
    served: list[str] = []
    serves = convolution._is_winograds

    def watched(*args: object, least: int) -> bool:
        served.append("yes" if serves(*args, least=1) else "no")
        return served[-1] == "yes"

    monkeypatch.setattr(convolution, "_is_winograds", watched)
    return served


@pytest.mark.usefixtures("order_of_memory")
@pytest.mark.parametrize("side", [(1, 1), (4, 4), (5, 9), (8, 3), (17, 6)])
@pytest.mark.parametrize("padding", [0, 1, 2, (2, 0)])
@pytest.mark.parametrize("order", ["C", "NHWC", "strided"])
def test_sizes_and_paddings(always: list[str], side: tuple[int, int], padding: int, order: str) -> None:
    rng = np.random.default_rng(1)
    top, left = np.broadcast_to(padding, 2)
    h, w = max(side[0], 3 - 2 * top), max(side[1], 3 - 2 * left)
    x, weight = (
        laid_out(rng, (3, 16, h, w), "float32", order),
        laid_out(rng, (17, 16, 3, 3), "float32", order),
    )
    compare_images("conv2d", x, weight, laid_out(rng, (17,), "float32"), padding=padding)
    assert always == ["yes"] * 3


@pytest.mark.usefixtures("order_of_memory")
@pytest.mark.parametrize("side", [(1, 1), (6, 7)])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_transposed_convolution(always: list[str], side: tuple[int, int], padding: int) -> None:
    rng = np.random.default_rng(2)
    h, w = (max(s, 2 * padding - 1) for s in side)
    x, weight = laid_out(rng, (3, 16, h, w), "float32"), laid_out(rng, (16, 18, 3, 3), "float32")
    compare_images("conv_transpose2d", x, weight, laid_out(rng, (18,), "float32"), padding=padding)
    assert always == ["yes"] * 3


@pytest.mark.usefixtures("order_of_memory")
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("tiles", [1, 5, 64])
def test_groups(always: list[str], batch: int, tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one band of one image to all of the batch in one group."""
    monkeypatch.setattr(winograd, "_TILES", tiles)
    monkeypatch.setattr(winograd, "_SHARED", tiles * 144 * 32)
    rng = np.random.default_rng(3)
    x, weight = (
        laid_out(rng, (batch, 16, 10, 13), "float32", "NHWC"),
        laid_out(rng, (16, 16, 3, 3), "float32"),
    )
    compare_images("conv2d", x, weight, None, padding=1)
    assert always == ["yes"] * 3


def test_every_tile_is_in_one_group() -> None:
    tiling = winograd._Tiling((7, 30, 9, 1), (1, 1))
    for tiles, shares in itertools.product((1, 8, 50, 10**6), (1, 2, 3)):
        met = [
            (n, band.outputs.start)
            for images, bands in tiling.groups(tiles, shares=shares)
            for n in range(images.start, images.stop)
            for band in bands
        ]
        assert sorted(met) == [(n, r) for n in range(7) for r in range(0, 30, 4)]
    assert len(list(tiling.groups(10**6, shares=2))) >= 2
    assert len(list(tiling.groups(10**6))) == 1


def unit_variance(channels: int, side: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4, channels, side, side))
    return x.astype(np.float32), (rng.normal(size=(64, channels, 3, 3)) / (3 * channels**0.5)).astype(
        np.float32
    )


@pytest.mark.parametrize("channels", [16, 64, 256, 512])
def test_rounding_of_a_layer(channels: int) -> None:
    """The contract: results of variance 1 are off by 2e-5 at most and 2e-6 on average; exact ones by a tenth of it."""
    x, weight = unit_variance(channels, 32)
    arrays = (x, weight, None)
    expected, expected_vjp = run(
        conv2d, "conv2d", tuple(a if a is None else a.astype(float) for a in arrays), {"padding": 1}
    )
    dy = np.random.default_rng(5).normal(size=expected.shape)
    exact_grads = [g() for g in expected_vjp(dy)[:2]]
    for mode, most in (("fast", 2e-5), ("exact", 5e-6)):
        with minidiff.precision(mode):
            y, vjp = run(conv2d, "conv2d", arrays, {"padding": 1})
            grads = [g() for g in vjp(dy.astype(np.float32))[:2]]
        for mine, exact in zip([y, *grads], [expected, *exact_grads], strict=True):
            error = np.abs(mine - exact) / exact.std()
            assert error.max() < most
            assert np.sqrt((error**2).mean()) < most / 10


def test_rounding_of_the_unet() -> None:
    """Against the generic rules in float64: 1e-5 for the images, 1e-4 of the largest element for gradients."""
    model, x = UNet(3, 32, 3), Generator(1).normal((4, 3, 32, 32))
    compute = value_and_grad(lambda x: ops.mse_loss(model(x, 500), x), model)
    y, (_, grads) = model(x, 500), compute(x)
    wide = UNet(3, 32, 3)
    for p in wide.parameters().values():
        p.data = p.data.astype(np.float64)
    with without_kernels(minidiff.get_backend("cpu")):
        expected = wide(x.astype(np.float64), 500)
        _, slopes = value_and_grad(lambda x: ops.mse_loss(wide(x, 500), x), wide)(x.astype(np.float64))
    assert np.abs(y - expected).max() < 1e-5
    for name, grad in grads.items():
        assert np.abs(grad - slopes[name]).max() < 1e-4 * max(1e-3, np.abs(slopes[name]).max()), name


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for every use of the algorithm."""
    calls: list[int] = []
    correlate = winograd.correlate

    def watched(*args: Array) -> Array:
        calls.append(1)
        return correlate(*args)

    monkeypatch.setattr(winograd, "correlate", watched)
    return calls


def convolve(
    side: int = 32, kernel: int = 3, channels: int = 16, dtype: str = "float32", **options: int
) -> None:
    rng = np.random.default_rng(6)
    x, weight = (laid_out(rng, s, dtype) for s in ((1, channels, side, side), (16, channels, kernel, kernel)))
    run(conv2d, "conv2d", (x, weight, None), options)


@pytest.mark.parametrize("option", ["stride", "dilation", "padding", "kernel", "channels", "side", "dtype"])
def test_what_is_left_to_panels(option: str, calls: list[int]) -> None:
    others = {
        "stride": 2,
        "dilation": 2,
        "padding": 3,
        "kernel": 5,
        "channels": 15,
        "side": 14,
        "dtype": "float64",
    }
    convolve()
    assert len(calls) == 1
    convolve(**{option: others[option]})  # type: ignore[arg-type]
    with minidiff.precision("exact"):
        convolve()
    assert len(calls) == 1
