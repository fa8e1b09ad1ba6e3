"""The gradient of a convolution's filters by wgmma, on the emulator: what the kernel computes, what it is used for, and
that the emulator finds matrices where PTX's descriptors say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_api_compat import numpy as host

from benchmarks.gpu_bench import Plan
from benchmarks.gpu_convolutions import convolutions
from minidiff import ops, precision
from minidiff.backend import Backend
from minidiff_cupy import products, sources
from minidiff_cupy.convolution import conv2d
from minidiff_cupy.products import Geometry, Tile
from tests import simt
from tests.simt import namespace as xp
from tests.simt.emulator import EmulatorError, working
from tests.simt.probes import emulator_in
from tests.simt_comparison import DTYPES, TOLERANCE, Array, compare, normal, relative, widened

HALVES = ("float16", "bfloat16")
TILES = pytest.mark.parametrize("tile", products._HOPPER_FILTERS, ids=lambda t: f"{t.rows}x{t.columns}")


def choose(monkeypatch: pytest.MonkeyPatch, tile: Tile) -> None:
    """Let all that can have this tile have it."""
    monkeypatch.setattr(products, "_best", lambda tiles, *_: tile if tile in tiles else tiles[0])


def gradient(x: Array, y: Array, filters: tuple[int, ...], **options: Any) -> Array:
    """The gradient of filters (O, KH, KW, C) between images (N, H, W, C) and (N, H, W, O), by the rule in float64."""
    o, kh, kw, c = filters
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    images = [widened(a).transpose(0, 3, 1, 2) for a in (x, y)]
    _, vjp = ops.conv2d.rule(host, images[0], np.zeros((o, c, kh, kw)), **defaults | options)  # type: ignore[attr-defined]
    return np.asarray(vjp(images[1])[1]()).transpose(0, 2, 3, 1)


def launched(xp: Any, x: Array, y: Array, g: Geometry) -> tuple[Any, str]:
    """The filters between two images, and the file of the kernel that made them."""
    engine = working()
    before, engine.launched = engine.launched, set()
    try:
        made = products.filters_between(xp, x, y, g)
        files = {file for file, _ in engine.launched if file.startswith("conv_filters")}
    finally:
        engine.launched |= before
    (file,) = files
    return made, file


GEOMETRIES = {
    "3x3": Geometry((9, 7), (9, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    "strides": Geometry((9, 12), (5, 5), (3, 2), (2, 3), (1, 2), (1, 1)),
    "dilation": Geometry((10, 9), (7, 11), (2, 3), (1, 1), (0, 3), (3, 2)),
}


@TILES
@pytest.mark.parametrize("dtype", HALVES)
def test_long_sums(simt_backend: Backend, tile: Tile, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More stages than there are in shared memory, whole and in parts, the last of which ends amid a stage."""
    choose(monkeypatch, tile)
    monkeypatch.setattr(products, "_LEAST_STEPS", 1)
    x, y = normal(7, 9, 10, 16, dtype=dtype), normal(7, 9, 10, 24, dtype=dtype, seed=1)
    g = Geometry((9, 10), (9, 10), (1, 1), (1, 1), (0, 0), (1, 1))
    there = [simt_backend.from_numpy(a) for a in (x, y)]
    expected = gradient(x, y, (24, 1, 1, 16))
    for processors in (1, 3):
        with simt.device(capability=90, multiprocessors=processors):
            made, file = launched(simt_backend.xp, *there, g)
        assert file == "conv_filters_wgmma.cu"
        assert relative(simt_backend.to_numpy(made), expected) <= TOLERANCE[dtype]


@TILES
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("where", GEOMETRIES)
def test_tiles(
    simt_backend: Backend, tile: Tile, dtype: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one tile both ways, ragged at both ends, several taps in one; ragged parts; two groups."""
    choose(monkeypatch, tile)
    monkeypatch.setattr(products, "_LEAST_STEPS", 1)
    geometry = GEOMETRIES[where]
    g = Geometry(*list(vars(geometry).values())[:-1], groups=2)
    c, o = 24, tile.rows + 8
    x = normal(3, *g.inputs, 2 * c, dtype=dtype)
    y = normal(3, *g.outputs, 2 * o, dtype=dtype, seed=1)
    there = [simt_backend.from_numpy(a) for a in (x, y)]
    with simt.device(capability=90, multiprocessors=64):
        made, file = launched(simt_backend.xp, *there, g)
    assert file == "conv_filters_wgmma.cu"
    options = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": 2}
    expected = gradient(x, y, (2 * o, *g.kernel, c), **options)
    assert made.dtype == x.dtype
    assert relative(simt_backend.to_numpy(made), expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_convolution_on_hopper(simt_backend: Backend, dtype: str) -> None:
    """Result and gradients, as launch code chooses for few pixels, many, and none."""
    options = {"padding": 1, "stride": 1, "dilation": 1, "groups": 1}
    for n, c, o in ((1, 8, 8), (3, 64, 72), (0, 8, 16)):
        x, w = normal(n, c, 9, 7, dtype=dtype, layout="channels last"), normal(o, c, 3, 3, dtype=dtype)
        with simt.device(capability=90, multiprocessors=5):
            compare(simt_backend, conv2d, "conv2d", x, w, normal(o, dtype=dtype), **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "c", "o"), [(0, 8, 16), (2, 0, 16), (2, 8, 0)])
def test_a_sum_of_nothing_is_zero(simt_backend: Backend, dtype: str, n: int, c: int, o: int) -> None:
    g = Geometry((4, 4), (4, 4), (3, 1), (1, 1), (1, 0), (1, 1))
    images = [simt_backend.from_numpy(normal(n, 4, 4, m, dtype=dtype)) for m in (c, o)]
    with simt.device(capability=90):
        made = simt_backend.to_numpy(products.filters_between(simt_backend.xp, *images, g))
    np.testing.assert_array_equal(made, np.zeros((o, 3, 1, c), DTYPES[dtype]))


@pytest.mark.parametrize(
    ("capability", "dtype", "channels", "filters", "first"),
    [
        (90, "float32", 8, 8, 0),  # wgmma transposes numbers of 16 bits only
        (90, "float16", 3, 8, 0),  # copied one by one
        (90, "float16", 8, 12, 0),
        (90, "bfloat16", 8, 8, 1),  # begins between multiples of 16 bytes
        (80, "bfloat16", 8, 8, 0),
        (100, "bfloat16", 8, 8, 0),  # wgmma is of 9.0 alone
    ],
)
def test_what_is_left_to_mma(
    capability: int,
    dtype: str,
    channels: int,
    filters: int,
    first: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(monkeypatch, products._HOPPER_FILTERS[0])
    backend = simt.backend()
    x, y = normal(2, 5, 4, channels, dtype=dtype), normal(2, 5, 4, filters, dtype=dtype, seed=1)
    there = []
    for a in (x, y):
        room = backend.from_numpy(np.zeros(a.size + first, a.dtype))
        room[first:] = backend.from_numpy(a).reshape(-1)
        there.append(room[first:].reshape(a.shape))
    g = Geometry((5, 4), (5, 4), (1, 1), (1, 1), (0, 0), (1, 1))
    with simt.device(capability=capability):
        made, file = launched(backend.xp, *there, g)
    assert file == "conv_filters.cu"
    tolerance = 2e-3 if dtype == "float32" else TOLERANCE[dtype]  # of TF32
    assert relative(backend.to_numpy(made), gradient(x, y, (filters, 1, 1, channels))) <= tolerance
    if dtype == "float32":
        with precision("exact"), simt.device(capability=capability):
            made, file = launched(backend.xp, *there, g)
        assert file == "conv_filters.cu"
        assert relative(backend.to_numpy(made), gradient(x, y, (filters, 1, 1, channels))) <= 1e-5


# --- which tile, how many parts --------------------------------------------------------------------------


def chosen(o: int, c: int, kernel: int, pixels: int) -> tuple[Tile, int]:
    """What an H100 gets for a bfloat16 convolution."""
    sizes = (o, kernel**2 * c, pixels, 2, 1, 132)
    tiles = (products._SQUARE, products._MEDIUM, *products._HOPPER_FILTERS)
    tile = products._best(tiles, *sizes, True)
    return tile, products._cut(tile, *sizes)[1]


def test_large_products_get_large_tiles_and_few_filters_low_ones() -> None:
    large, square, narrow, low = products._HOPPER_FILTERS
    assert chosen(256, 256, 3, 32 * 64 * 64) == (large, 7)  # 18 tiles
    assert chosen(512, 512, 1, 32 * 32 * 32) == (large, 16)
    assert chosen(1280, 1280, 3, 16 * 16 * 16) == (large, 1)  # 450 tiles
    assert chosen(128, 128, 3, 128 * 16 * 16) == (square, 14)
    assert chosen(64, 192, 3, 16 * 32 * 32)[0] is low
    assert chosen(128, 64, 1, 16 * 32 * 32)[0] is narrow
    assert chosen(8, 8, 1, 4096)[0] is products._MEDIUM


def test_the_checks_of_the_benchmark_take_every_tile() -> None:
    plan, tiles = Plan(), set()
    for each in convolutions(plan):
        (n, c, height, width), (o, _, *kernel) = (x.shape for x in each.inputs)
        if each.options.get("stride", 1) == 1:
            assert c % 8 == o % 8 == 0
            tiles.add(chosen(o, c, kernel[0], n * height * width)[0])
    assert tiles == {products._MEDIUM, *products._HOPPER_FILTERS}


def test_parts_are_none_of_them_empty_and_fit_the_memory_for_them() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows, columns, length = (int(2**e) for e in rng.uniform((0, 0, 0), (11, 14, 22)))
        tile = products._HOPPER_FILTERS[rng.integers(4)]
        _, parts = products._cut(tile, rows, columns, length, 2, 1, int(rng.integers(1, 200)))
        steps = tile.steps(length, 2)
        share = -(-steps // parts)
        assert (parts - 1) * share < steps
        assert parts == 1 or parts * 4 * rows * columns <= products._PARTIAL_BYTES
    sizes = (
        products._HOPPER[0],
        512,
        8192,
        2**20,
        2,
        1,
        160,
    )  # 16 MiB for each part, and five were the fastest
    assert products._cut(*sizes)[1] <= 4


# --- the emulator's wgmma --------------------------------------------------------------------------------

PRODUCT = """#include "wgmma.cuh"
// y (64, 128) = a (64, 16) b (128, 16)^T, both brought to shared memory in the order that `places` gives.
template <bool COLUMNS>
__global__ void product(float* y, const half* a, const half* b, const int* places_of_a, const int* places_of_b,
                        int leading, int stride, int first) {
    extern __shared__ __align__(1024) unsigned char shared[];
    unsigned char *left = shared, *right = shared + 16384;
    for (int i = threadIdx.x; i < 64 * 16; i += 128) *reinterpret_cast<half*>(left + places_of_a[i]) = a[i];
    for (int i = threadIdx.x; i < 128 * 16; i += 128) *reinterpret_cast<half*>(right + places_of_b[i]) = b[i];
    show_to_products();
    __syncthreads();
    float sums[16][4];
    fence_products();
    multiply_async<half, 16, COLUMNS>(sums, descriptor(left + first, leading, stride),
                                      descriptor(right + first, leading, stride), false);
    commit_products();
    wait_for_products<0>();
    for (int j = 0; j < 16; j++)
        for (int e = 0; e < 4; e++)
            y[(threadIdx.x / 32 * 16 + e / 2 * 8 + threadIdx.x % 32 / 4) * 128 + 8 * j + threadIdx.x % 4 * 2 +
              e % 2] = sums[j][e];
}
"""


def turned(byte: Array) -> Array:
    """The swizzle of 128 bytes: CUTLASS's Swizzle<3, 4, 3> of a byte's number."""
    return byte ^ ((byte >> 3) & 0x70)


def multiplied(
    folder: Path, schedule: str, columns: bool, places: list[Array], leading: int, stride: int, first: int = 0
) -> Array:
    """What the emulator makes of two matrices of small whole numbers, minus their product."""
    for name in ("wgmma.cuh", "tensor_cores.cuh"):
        (folder / name).write_text((sources.FOLDER / name).read_text())
    (folder / "product.cu").write_text(PRODUCT)
    sources.read.cache_clear()
    kernel = emulator_in(folder, schedule).load("product.cu", f"product<{str(columns).lower()}>", ())
    a, b = (np.random.default_rng(n).integers(-4, 5, (n, 16)).astype(np.float16) for n in (64, 128))
    there = [simt.backend().from_numpy(each) for each in (a, b, *(p.astype(np.int32) for p in places))]
    y = xp.empty((64, 128), dtype=np.float32)
    numbers = [np.int32(n) for n in (leading, stride, first)]
    kernel((1,), (128,), (y, *there, *numbers), shared_mem=49152)
    return y.view(np.ndarray) - a.astype(np.float32) @ b.astype(np.float32).T


@pytest.mark.parametrize("schedule", simt.SCHEDULES)
@pytest.mark.parametrize(("leading", "stride"), [(8192, 1024), (1024, 2048), (4096, 1024)])
def test_columns_lie_where_the_descriptor_says(
    tmp_path: Path, schedule: str, leading: int, stride: int
) -> None:
    """CUTLASS, in units of 16 bytes, for B128 and major MN: ((8, n), (8, k)) : ((1, LBO), (8, SBO)), swizzled."""
    places = []
    for rows in (64, 128):
        row, k = np.indices((rows, 16))
        unit = row // 8 % 8 + row // 64 * (leading // 16) + k % 8 * 8 + k // 8 * (stride // 16)
        places.append(turned(unit * 16 + row % 8 * 2))
    assert not multiplied(tmp_path, schedule, True, places, leading, stride).any()


@pytest.mark.parametrize("first", [0, 32, 96])
def test_lines_lie_where_the_descriptor_says(tmp_path: Path, first: int) -> None:
    """The same for major K: ((8, n), 2) : ((8, SBO), 1); a matrix may begin within a line of 128 bytes."""
    places = []
    for rows in (64, 128):
        row, k = np.indices((rows, 16))
        places.append(turned((row % 8 * 8 + row // 8 * (1024 // 16)) * 16 + k * 2 + first))
    assert not multiplied(tmp_path, "forward", False, places, 16, 1024, first).any()


def test_other_distances_find_other_numbers(tmp_path: Path) -> None:
    row, k = np.indices((128, 16))
    place = turned(row % 64 * 2 + row // 64 * 8192 + k * 128)
    places = [place[:64], place]
    assert not multiplied(tmp_path, "forward", True, places, 8192, 1024).any()
    for leading, stride in ((1024, 1024), (8192, 2048), (1024, 8192)):
        assert multiplied(tmp_path, "forward", True, places, leading, stride).any()


def test_a_matrix_begins_where_the_swizzle_does(tmp_path: Path) -> None:
    places = [np.zeros((rows, 16), np.int32) for rows in (64, 128)]
    with pytest.raises(EmulatorError, match="begins at 256, amid 1024 bytes of the swizzle"):
        multiplied(tmp_path, "forward", True, places, 8192, 1024, 256)
