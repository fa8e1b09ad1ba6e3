"""Ceilings, ops and Adam, timed on the device alone: the host queues ahead (see `benchmarks.gpu_timing`)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu_bench import CHANNELS_LAST, EAGER, LIMITS, OURS, Bench
from benchmarks.gpu_parties import Party, drawn, flops, least_bytes, network
from benchmarks.gpu_table import SHORT, Row, Table
from benchmarks.gpu_timing import sets_for
from benchmarks.interleave import Work
from minidiff import Generator, inference, ops
from minidiff.backend import Array, get_backend
from minidiff.ops.support import find_dtype
from minidiff.testing import Case, Input

__all__ = [
    "measure_adam",
    "measure_attention",
    "measure_ceilings",
    "measure_convolution",
    "measure_group_norm",
    "result_shape",
]

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
OPS = OURS, EAGER, CHANNELS_LAST


def measure_ceilings(bench: Bench) -> dict[str, Any]:
    """What this GPU can do: a large copy, and a large product by our kernels and by the vendor's library."""
    bench.say("ceilings")
    figures: dict[str, Any] = {}
    speed = bench.attempt("copy", partial(_copy_speed, bench))
    if speed is not None:
        bench.ceilings["copy"] = speed
        figures["copy GB/s"] = round(speed / 1e9, 1)
        bench.say(f"  copy, bytes read and written: {speed / 1e9:.0f} GB/s")
    n = bench.plan.square
    for dtype in bench.plan.dtypes:
        a, b = (_matrix(bench, seed, dtype) for seed in (1, 2))
        products: dict[str, Callable[[], Array]] = {
            "ours": partial(ops.linear, a, b),
            "library": partial(bench.device.library_product, a, b.T),
        }
        for name, run in products.items():
            seconds = bench.attempt(f"product, {dtype}, {name}", partial(_seconds, bench, run))
            if seconds is not None:
                found = 2 * n**3 / seconds
                bench.ceilings[dtype] = max(bench.ceilings.get(dtype, 0.0), found)
                figures[f"{SHORT[dtype]} product {n}, {name}, TFLOP/s"] = round(found / 1e12, 1)
                bench.say(f"  {SHORT[dtype]:<5} product {n}x{n}x{n}, {name}: {found / 1e12:.1f} TFLOP/s")
    return figures


def _copy_speed(bench: Bench) -> float:
    """Bytes read and written per second, where both arrays are far larger than the cache."""
    xp, count = bench.device.backend.xp, bench.plan.copied_bytes // 4
    source = Generator(0, bench.device.backend).normal(count)
    target = xp.empty_like(source)

    def copy() -> None:
        target[...] = source

    return 8 * count / _seconds(bench, copy)


def _matrix(bench: Bench, seed: int, dtype: str) -> Array:
    backend, n = bench.device.backend, bench.plan.square
    x = Generator(seed, backend).normal((n, n))
    return backend.xp.astype(x, find_dtype(backend.xp, dtype))


def _seconds(bench: Bench, run: Callable[[], object]) -> float:
    """The median of a few calls, after two that warm up."""
    times = [bench.device.elapsed(run) for _ in range(2 + bench.plan.rounds)]
    return statistics.median(times[2:])


def _measure_ops(bench: Bench, title: str, groups: dict[str, Sequence[Case]]) -> dict[str, Any]:
    """Ops forward and backward in each dtype, and for each group the geometric mean of our speed beside PyTorch's."""
    parties = bench.parties(*OPS)
    table = Table(bench, f"{title}, ms on the device", parties)
    rows: list[Row] = []
    rng = np.random.default_rng(bench.seed)
    for dtype in bench.plan.dtypes:
        for group, cases in groups.items():
            for each in cases:
                label = f"{SHORT[dtype]:<5}{_shapes(each)}"
                works = bench.attempt(label, partial(_works, bench, parties, each, dtype, rng))
                if works is None:
                    continue
                for way in ("forward", "backward"):
                    run = partial(_op_row, bench, parties, works, table, each, dtype, way, label)
                    row = bench.attempt(f"{label} {way}", run)
                    if row is not None:
                        rows.append({"op": each.op, "dtype": dtype, "group": group, "way": way, **row})
    return {"rows": rows, "speed": _means(bench, rows)}


def _works(
    bench: Bench, parties: dict[str, Party], each: Case, dtype: str, rng: np.random.Generator
) -> dict[str, tuple[Work, Work]]:
    """Of an op, forward and backward, with inputs that do not stay in the cache."""
    hosts, sets = drawn(each, rng), sets_for(bench.device, least_bytes(each, (0,), ITEMSIZE[dtype]))
    return {name: party.op(each, hosts, dtype, sets) for name, party in parties.items()}


def _op_row(
    bench: Bench,
    parties: dict[str, Party],
    works: dict[str, tuple[Work, Work]],
    table: Table,
    each: Case,
    dtype: str,
    way: str,
    label: str,
) -> Row:
    gradient = way == "backward"
    of_way = {name: both[gradient] for name, both in works.items()}
    with nullcontext() if gradient else inference():
        times = bench.compare(parties, of_way, limit=LIMITS[dtype][0], ahead=True)
    result = result_shape(each)
    nbytes = least_bytes(each, result, ITEMSIZE[dtype], gradient=gradient)
    return table.row(
        f"{label}{' backward' if gradient else ''}",
        times,
        flops(each, result, gradient=gradient),
        nbytes,
        dtype,
    )


def _means(bench: Bench, rows: Sequence[Row]) -> dict[str, float]:
    """Geometric means of our speed in parts of the others', by dtype, group and way."""
    speeds: dict[str, list[float]] = {}
    for row in rows:
        for other, speed in row["speed to"].items():
            key = f"{SHORT[row['dtype']]} {row['group']} {row['way']} to {other}"
            speeds.setdefault(key, []).append(speed["median"])
    means = {key: round(statistics.geometric_mean(found), 3) for key, found in speeds.items()}
    for key, mean in means.items():
        bench.say(f"  speed, {key}: {mean:.2f} (geometric mean of {len(speeds[key])})")
    return means


def _shapes(each: Case) -> str:
    shapes = ["x".join(map(str, x.shape)) for x in each.inputs if isinstance(x, Input) and len(x.shape) > 1]
    stride = each.options.get("stride", 1)
    return f"{each.op.removeprefix('scaled_dot_product_')} {', '.join(shapes)}" + (
        f" /{stride}" if stride != 1 else ""
    )


def result_shape(each: Case) -> tuple[int, ...]:
    """Of the ops that are timed."""
    shapes = [x.shape for x in each.inputs if isinstance(x, Input)]
    if each.op != "conv2d":
        return shapes[0]
    (n, _, *sides), (o, _, *kernel) = shapes[:2]
    stride, padding = each.options.get("stride", 1), each.options.get("padding", 0)
    return n, o, *((s + 2 * padding - k) // stride + 1 for s, k in zip(sides, kernel, strict=True))


def measure_convolution(bench: Bench) -> dict[str, Any]:
    """Large convolutions, and those of the U-Net for each batch."""
    groups: dict[str, Sequence[Case]] = {"large": bench.large_convolutions()}
    for batch in reversed(bench.plan.batches):
        label = f"U-Net, batch {batch}"
        groups[label] = bench.attempt(f"{label}: shapes", partial(bench.convolutions, batch)) or ()
    return _measure_ops(bench, "convolution", groups)


def measure_group_norm(bench: Bench) -> dict[str, Any]:
    """GroupNorm and SiLU in one."""
    return _measure_ops(bench, "GroupNorm and SiLU", {"GroupNorm+SiLU": bench.normalizations()})


def measure_attention(bench: Bench) -> dict[str, Any]:
    """Attention, forward and backward."""
    return _measure_ops(bench, "attention", {"attention": bench.attentions()})


def measure_adam(bench: Bench) -> dict[str, Any]:
    """A step of Adam for all parameters of the U-Net."""
    parties = bench.parties(*OPS)
    table = Table(bench, "Adam, ms on the device (channels_last: the fused one)", parties)
    rng = np.random.default_rng(bench.seed)
    model = network(get_backend("cpu"), bench.plan.channels)
    hosts = [np.asarray(p.data) for p in model.parameters().values()]
    gradients = [rng.standard_normal(p.shape, np.float32) for p in hosts]
    count = sum(p.size for p in hosts)

    def run() -> Row:
        works = {name: party.adam(hosts, gradients) for name, party in parties.items()}
        times = bench.compare(parties, works, limit=1e-4, ahead=True)
        label = f"{len(hosts)} arrays, {count / 1e6:.1f} M numbers"
        return table.row(label, times, 0, 7 * 4 * count)  # of p, g, m, v; all but g are also written

    return {"row": bench.attempt("Adam", run)}
