"""The CUDA kernels of conv2d, conv_transpose2d and linear on the emulator, against the generic rules in float64."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_api_compat import numpy as host

from minidiff import ops, precision
from minidiff.backend import Backend
from minidiff_cupy import functional, products
from minidiff_cupy.convolution import conv2d, conv_transpose2d
from minidiff_cupy.linear import linear
from minidiff_cupy.products import Geometry, Tile
from tests import simt

Array = np.ndarray[Any, Any]
KERNELS = {"conv2d": conv2d, "conv_transpose2d": conv_transpose2d, "linear": linear}
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
MODES = {"exact": 1e-5, "float32": 2e-3, "float16": 2e-3, "bfloat16": 1e-2}  # relative norms; float32 is TF32


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """A dtype, or float32 without tensor cores."""
    with precision("exact") if request.param == "exact" else nullcontext():
        yield request.param


@pytest.fixture
def backend_of_seed(request: pytest.FixtureRequest, seed: int) -> Iterator[Backend]:
    """The emulator with an order of threads that changes with the seed."""
    with simt.schedule(simt.SCHEDULES[seed % 3]):
        yield simt.backend()


def drawn(rng: np.random.Generator, mode: str, order: str, *shape: int) -> Array:
    """Normal numbers in the dtype of `mode`, images in an order of memory: "NCHW", "NHWC" or "strided"."""
    dtype = DTYPES["float32" if mode == "exact" else mode]
    if order == "NHWC" and len(shape) == 4:
        n, c, h, w = shape
        return rng.normal(size=(n, h, w, c)).astype(dtype).transpose(0, 3, 1, 2)
    if order == "strided":
        return np.repeat(rng.normal(size=shape).astype(dtype), 2, axis=-1)[..., ::2]
    return rng.normal(size=shape).astype(dtype)


def brought(backend: Backend, a: Array) -> Any:
    """The array on the device, with gaps in memory if it has any here, locked against writing."""
    gaps = a.nbytes != a.base.nbytes if isinstance(a.base, np.ndarray) else False
    there = backend.from_numpy(np.repeat(a, 2, axis=-1))[..., ::2] if gaps else backend.from_numpy(a)
    there.flags.writeable = False
    return there


def off(made: Any, expected: Array) -> float:
    """The relative norm of a difference; of what should be zero, its norm."""
    difference = float(np.linalg.norm(made.view(np.ndarray).astype(np.float64) - expected))
    return difference / (float(np.linalg.norm(expected)) or 1.0)


def compare(backend: Backend, mode: str, name: str, *arrays: Array | None, **options: Any) -> None:
    """Result and gradients of a kernel are those of the rule, in float64, within the mode's tolerance."""
    rule = getattr(ops, name)
    parameters = inspect.signature(rule).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | options
    expected, expected_vjp = rule.rule(
        host, *(a if a is None else a.astype(np.float64) for a in arrays), **options
    )
    there = [a if a is None else brought(backend, a) for a in arrays]
    y, vjp = KERNELS[name](backend.xp, *there, **options)
    dy = drawn(np.random.default_rng(1), mode, "NHWC", *expected.shape)
    pairs = [(y, expected)]
    gradients = zip(arrays, vjp(backend.from_numpy(dy)), expected_vjp(dy.astype(np.float64)), strict=False)
    pairs += [(mine(), other()) for given, mine, other in gradients if given is not None]
    for mine, other in pairs:
        assert mine.shape == other.shape
        assert mine.dtype == there[0].dtype
        assert off(mine, other) <= MODES[mode]
    if name != "linear":
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
        assert pairs[1][0].transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "stride", "padding"),
    [
        (16, 24, 3, 1, 1),
        (3, 16, 3, 1, 1),
        (16, 3, 3, 1, 1),
        (24, 40, 1, 1, 0),
        (16, 16, 3, 2, 1),
        (8, 8, 4, 2, 1),
    ],
)
def test_convolutions_of_networks(
    simt_backend: Backend, mode: str, channels: int, filters: int, kernel: int, stride: int, padding: int
) -> None:
    rng, options = np.random.default_rng(kernel), {"stride": stride, "padding": padding}
    x, bias = drawn(rng, mode, "NHWC", 2, channels, 9, 7), drawn(rng, mode, "", filters)
    weight = drawn(rng, mode, "", filters, channels, kernel, kernel)
    compare(simt_backend, mode, "conv2d", x, weight, bias, **options)


def geometry(rng: np.random.Generator) -> dict[str, Any]:
    """Options of a convolution, rows and columns apart; paddings go beyond the kernel."""
    kernel = tuple(map(int, rng.integers(1, 6, 2)))
    return {
        "kernel": kernel,
        "stride": tuple(map(int, rng.choice([1, 1, 2, 3], 2))),
        "padding": tuple(int(rng.integers(0, k + 2)) for k in kernel),
        "dilation": tuple(map(int, rng.choice([1, 1, 2, 3], 2))),
        "groups": int(rng.choice([1, 1, 2, 3])),
    }


@pytest.mark.parametrize("seed", range(9))
def test_conv2d(backend_of_seed: Backend, mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = geometry(rng)
    kernel, groups, order = (
        options.pop("kernel"),
        options["groups"],
        str(rng.choice(["NCHW", "NHWC", "strided"])),
    )
    steps = zip(kernel, options["padding"], options["dilation"], strict=True)
    sides = [int(max(1, d * (k - 1) + 1 - 2 * p) + rng.integers(0, 8)) for k, p, d in steps]
    n, c, o = int(rng.integers(1, 4)), int(rng.choice([1, 3, 4, 8])), int(rng.choice([1, 5, 8]))
    x, weight = (
        drawn(rng, mode, order, n, groups * c, *sides),
        drawn(rng, mode, order, groups * o, c, *kernel),
    )
    bias = drawn(rng, mode, order, groups * o) if seed % 3 else None
    compare(backend_of_seed, mode, "conv2d", x, weight, bias, **options)


@pytest.mark.parametrize("seed", range(9))
def test_conv_transpose2d(backend_of_seed: Backend, mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = geometry(rng)
    kernel, groups, order = (
        options.pop("kernel"),
        options["groups"],
        str(rng.choice(["NCHW", "NHWC", "strided"])),
    )
    steps = list(zip(kernel, options["padding"], options["dilation"], options["stride"], strict=True))
    extra = [int(rng.integers(0, max(s, d))) for _, _, d, s in steps]
    least = [
        max(1, -(-(2 * p - d * (k - 1) - e) // s) + 1) for (k, p, d, s), e in zip(steps, extra, strict=True)
    ]
    sides = [int(rng.integers(a, a + 6)) for a in least]
    n, c, o = int(rng.integers(1, 4)), int(rng.choice([1, 3, 4, 8])), int(rng.choice([1, 5, 8]))
    x, weight = (
        drawn(rng, mode, order, n, groups * c, *sides),
        drawn(rng, mode, order, groups * c, o, *kernel),
    )
    bias = drawn(rng, mode, order, groups * o) if seed % 3 else None
    compare(
        backend_of_seed, mode, "conv_transpose2d", x, weight, bias, output_padding=tuple(extra), **options
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "tile", [*products._TILES, *products._HOPPER], ids=lambda t: f"{t.rows}x{t.columns}x{t.line}"
)
def test_tiles(
    backend_of_seed: Backend, mode: str, tile: Tile, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tile, more than one of them in both directions and ragged at both ends, over several blocks of channels."""
    if mode == "exact" and tile not in (products._MEDIUM, products._NARROW):
        pytest.skip("left to the tensor cores")
    monkeypatch.setattr(products, "_best", lambda tiles, *_: tile if tile in tiles else tiles[0])
    rng = np.random.default_rng(2)
    channels, filters = (9, tile.columns + 7) if seed % 2 else (72, tile.columns + 8)
    x = drawn(rng, mode, "NHWC", 1, channels, tile.rows // 8 + 1, 9)
    weight, bias = drawn(rng, mode, "", filters, channels, 1, 2), drawn(rng, mode, "", filters)
    options = {"stride": 1, "padding": 0, "groups": 1, "dilation": 1}
    with simt.device(capability=90):
        there = [brought(backend_of_seed, a) for a in (x, weight, bias)]
        y, _ = conv2d(backend_of_seed.xp, *there, **options)
    expected, _ = ops.conv2d.rule(host, *(a.astype(np.float64) for a in (x, weight, bias)), **options)  # type: ignore[attr-defined]
    assert off(y, expected) <= MODES[mode]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tile", [products._SQUARE, products._MEDIUM], ids=["square", "medium"])
def test_tiles_of_filters(
    backend_of_seed: Backend, mode: str, tile: Tile, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_best", lambda tiles, *_: tile if tile in tiles else tiles[0])
    rng, (channels, filters) = np.random.default_rng(3), (9, 131) if seed % 2 else (40, 136)
    x, y = drawn(rng, mode, "NHWC", 2, channels, 7, 6), drawn(rng, mode, "NHWC", 2, filters, 6, 5)
    g = Geometry((7, 6), (6, 5), (2, 2), (1, 1), (0, 0), (1, 1))
    images = [backend_of_seed.from_numpy(a.transpose(0, 2, 3, 1)) for a in (x, y)]
    made = products.filters_between(backend_of_seed.xp, *images, g).transpose(0, 3, 1, 2)
    weight = np.zeros((filters, channels, 2, 2))
    _, vjp = ops.conv2d.rule(host, x.astype(np.float64), weight)  # type: ignore[attr-defined]
    assert off(made, vjp(y.astype(np.float64))[1]()) <= MODES[mode]


@pytest.mark.parametrize("channels", [32, 6])
def test_parts_of_the_inner_axis(
    simt_backend: Backend, mode: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many multiprocessors share few tiles: blocks sum up parts, one after the last of them empty."""
    monkeypatch.setattr(products, "_LEAST_STEPS", 1)
    rng = np.random.default_rng(3)
    x, bias = drawn(rng, mode, "NHWC", 2, channels, 6, 5), drawn(rng, mode, "", 8)
    weight = drawn(rng, mode, "", 8, channels, 3, 3)
    with simt.device(multiprocessors=7):
        compare(simt_backend, mode, "conv2d", x, weight, bias, padding=1)
        compare(simt_backend, mode, "conv2d", x, weight, bias, padding=1, stride=2)


def test_before_ampere(simt_backend: Backend) -> None:
    """Tensor cores of compute capability 7.5 multiply float16 only; other products are exact."""
    rng = np.random.default_rng(4)
    with simt.device(capability=75):
        for mode, name in (("float32", "exact"), ("bfloat16", "bfloat16"), ("float16", "float16")):
            x, weight = drawn(rng, mode, "NHWC", 2, 16, 5, 6), drawn(rng, mode, "", 8, 16, 3, 3)
            compare(simt_backend, name, "conv2d", x, weight, None, padding=1)


def test_arrays_that_begin_anywhere(simt_backend: Backend, mode: str) -> None:
    """Views into one buffer whose parts do not begin at multiples of 16 bytes are read element by element."""
    rng = np.random.default_rng(5)
    buffer = drawn(rng, mode, "", 2000)
    x = buffer[1:513].reshape(2, 4, 4, 16).transpose(0, 3, 1, 2)
    weight = buffer[515 : 515 + 8 * 16].reshape(8, 16, 1, 1)
    there = simt_backend.from_numpy(buffer)
    moved = [
        there[1:513].reshape(2, 4, 4, 16).transpose(0, 3, 1, 2),
        there[515 : 515 + 8 * 16].reshape(8, 16, 1, 1),
    ]
    moved.append(there[777:785])
    y, _ = conv2d(simt_backend.xp, *moved, stride=1, padding=0, groups=1, dilation=1)
    arrays = [a.astype(np.float64) for a in (x, weight, buffer[777:785])]
    expected, _ = ops.conv2d.rule(host, *arrays)  # type: ignore[attr-defined]
    assert off(y, expected) <= MODES[mode]


@pytest.mark.parametrize("shape", [(0, 8, 5, 5), (2, 0, 5, 5), (1, 1, 1, 1)])
def test_sizes_of_zero_and_one(simt_backend: Backend, mode: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    for filters in (0, 1, 8):
        for stride in (1, 2):
            weight, bias = drawn(rng, mode, "", filters, shape[1], 3, 3), drawn(rng, mode, "", filters)
            x = drawn(rng, mode, "NCHW", *shape)
            compare(simt_backend, mode, "conv2d", x, weight, bias, padding=1, stride=stride)


def test_phases_that_no_tap_meets(simt_backend: Backend, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stride above the kernel leaves pixels of the image without a gradient, on warpgroups too."""
    monkeypatch.setattr(products, "_best", lambda tiles, *_: tiles[-1])
    rng = np.random.default_rng(10)
    x, weight = drawn(rng, mode, "NHWC", 2, 16, 6, 5), drawn(rng, mode, "", 8, 16, 1, 1)
    for capability in (80, 90):
        with simt.device(capability=capability):
            compare(simt_backend, mode, "conv2d", x, weight, None, stride=(3, 2))


@pytest.mark.parametrize(
    ("lead", "width", "out"),
    [((5,), 16, 24), ((2, 3), 7, 5), ((), 8, 8), ((0,), 4, 4), ((70,), 64, 72), ((3,), 0, 4)],
)
def test_linear(simt_backend: Backend, mode: str, lead: tuple[int, ...], width: int, out: int) -> None:
    rng = np.random.default_rng(7)
    for bias in (drawn(rng, mode, "", out), None):
        for order in ("", "strided"):
            x, weight = drawn(rng, mode, order, *lead, width), drawn(rng, mode, order, out, width)
            compare(simt_backend, mode, "linear", x, weight, bias)


def test_other_types_are_left_to_the_rule() -> None:
    backend = simt.backend()
    x, weight = (backend.from_numpy(np.ones((2, 2, 1, 1), dtype)) for dtype in (np.float64, np.float64))
    options: dict[str, Any] = {"stride": 1, "padding": 0, "groups": 1, "dilation": 1}
    assert conv2d(backend.xp, x, weight, None, **options) is NotImplemented
    assert conv_transpose2d(backend.xp, x, weight, None, output_padding=0, **options) is NotImplemented
    assert linear(backend.xp, x[:, :, 0, 0], weight[:, :, 0, 0], None) is NotImplemented


def test_the_choice_of_tiles_and_parts() -> None:
    """Large products get large tiles; small ones smaller tiles, then parts; few filters narrow tiles."""
    sizes = {"channels of an input": 64, "itemsize": 4, "products": 1, "processors": 132}.values()
    assert products._best(products._TILES, 128 * 32 * 32, 128, *sizes) is products._LARGE
    assert products._best(products._TILES, 16 * 8 * 8, 256, *sizes) is products._MEDIUM
    assert products._best(products._TILES, 128 * 32 * 32, 3, *sizes) is products._NARROW
    tiles = (*products._TILES, *products._HOPPER)
    assert products._best(tiles, 128 * 32 * 32, 128, *sizes) is products._HOPPER[0]
    assert products._best(tiles, 128 * 32 * 32, 64, *sizes) is products._HOPPER[2]
    assert products._parts(64, 144, 1 << 20, 132) == 4
    assert products._parts(132, 144, 1 << 20, 132) == 1
    assert products._parts(1, 9, 1 << 20, 132) == 1
    assert products._parts(1, 10**6, 1 << 24, 132) == 4


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("capability", [80, 90])
def test_functional_conv2d(
    simt_backend: Backend, mode: str, parts: int, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bias, shift, residual and activation, in the product's kernel or in the one that sums up parts."""
    monkeypatch.setattr(products, "_LEAST_STEPS", 1)
    rng = np.random.default_rng(8)
    for filters, groups in ((8, 1), (10, 2)):
        x, weight = drawn(rng, mode, "NCHW", 2, 48, 6, 5), drawn(rng, mode, "", filters, 48 // groups, 3, 3)
        bias, shift = drawn(rng, mode, "", filters), drawn(rng, mode, "strided", 2, filters)
        residual = drawn(rng, mode, "NCHW", 2, filters, 6, 5)
        wide = [a.astype(np.float64) for a in (x, weight, bias)]
        y, _ = ops.conv2d.rule(host, *wide, padding=1, groups=groups)  # type: ignore[attr-defined]
        expected = y + shift.astype(np.float64)[:, :, None, None] + residual
        there = [simt_backend.from_numpy(a) for a in (x, weight, bias)]
        extras = {"shift": brought(simt_backend, shift), "residual": simt_backend.from_numpy(residual)}
        with simt.device(multiprocessors=parts, capability=capability):
            plain = functional.conv2d(*there, padding=1, groups=groups)
            made = functional.conv2d(*there, padding=1, groups=groups, activation="silu", **extras)
            added = functional.conv2d(*there, padding=1, groups=groups, residual=extras["residual"])
        assert off(plain, y) <= MODES[mode]
        assert off(added, y + residual) <= MODES[mode]
        assert off(made, silu(expected)) <= MODES[mode]


def test_functional_group_norm(simt_backend: Backend) -> None:
    rng = np.random.default_rng(9)
    x, weight, bias = drawn(rng, "float32", "NHWC", 2, 8, 3, 5), *rng.normal(size=(2, 8)).astype(np.float32)
    for arrays in ((x,), (x, weight, bias)):
        there = [simt_backend.from_numpy(a) for a in arrays]
        expected, _ = ops.group_norm.rule(host, *arrays, groups=4, activation="silu")  # type: ignore[attr-defined]
        assert off(functional.group_norm(*there, groups=4, activation="silu"), expected) < 1e-5


def test_errors_of_functional() -> None:
    backend = simt.backend()
    x, weight, other = (
        backend.from_numpy(np.ones(s, np.float32)) for s in ((1, 4, 3, 3), (6, 4, 2, 2), (5,))
    )
    for error, arrays, options in (
        (r"x \(1, 4, 3, 3\), weight \(6, 4, 2, 2\), groups 2", (x, weight), {"groups": 2}),
        (r"bias must have shape \(6,\), but has \(5,\)", (x, weight, other), {}),
        (r"residual must have shape \(1, 6, 2, 2\)", (x, weight), {"residual": x}),
        (r"larger than the padded image", (x, weight), {"dilation": 9}),
        (r"not 'relu'", (x, weight), {"activation": "relu"}),
    ):
        with pytest.raises(ValueError, match=error):
            functional.conv2d(*arrays, **options)
    with pytest.raises(TypeError, match="float32, float64"):
        functional.conv2d(x, weight.astype(np.float64))
    with pytest.raises(ValueError, match="3 groups do not divide"):
        functional.group_norm(x, groups=3)
    with pytest.raises(ValueError, match=r"weight must have shape \(4,\)"):
        functional.group_norm(x, other, groups=2)
