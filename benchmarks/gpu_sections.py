"""The sections of `benchmarks.gpu`: each measures, prints rows as they come, and returns all figures for JSON.

Ops are timed on the device alone: the host queues ahead (see `benchmarks.gpu_timing`). Networks, loops and steps are
timed as their user sees them, launches and Python included, unless they are captured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gpu_bench import CAPTURED, CHANNELS_LAST, COMPILED, EAGER, LIMITS, OURS, Bench
from benchmarks.gpu_checks import measure_checks
from benchmarks.gpu_parties import Party, activation_bytes, drawn, flops, images, least_bytes, network
from benchmarks.gpu_timing import Times, sets_for
from benchmarks.interleave import Work
from minidiff import Generator, inference, ops
from minidiff.backend import Array, get_backend
from minidiff.ops.support import find_dtype
from minidiff.testing import Case, Input

__all__ = ["SECTIONS"]

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
SHORT = {"float32": "TF32", "float16": "f16", "bfloat16": "bf16"}
OPS = OURS, EAGER, CHANNELS_LAST
NETWORKS = CAPTURED, OURS, EAGER, CHANNELS_LAST
STEPS = 3  # of training, while memory is watched
LABEL = 58

Row = dict[str, Any]


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


class _Table:
    """Rows of times, speeds and what was achieved, beside the ceilings."""

    def __init__(self, bench: Bench, title: str, parties: Iterable[str], *, achieved: bool = True) -> None:
        self._bench, self._parties, self._achieved = bench, list(parties), achieved
        heads = "".join(f"{name:>14}" for name in self._parties)
        heads += "".join(f"{'to ' + name:>20}" for name in self._parties[1:])
        heads += f"{'TFLOP/s':>14}{'GB/s':>14}" if achieved else ""
        bench.say(f"\n{title}\n{'':<{LABEL}}{heads}{'error':>9}")

    def row(self, label: str, times: Times, flops: float = 0, nbytes: float = 0, dtype: str = "") -> Row:
        """Print a row; returns its figures."""
        seconds, ceilings = times.median(times.first), self._bench.ceilings
        figures: Row = {"what": label, **times.describe()}
        cells = [f"{_ms(times.median(name)) if name in times.seconds else '-':>14}" for name in self._parties]
        cells += [
            f"{_spread(times.speed(name)) if name in times.seconds else '-':>20}"
            for name in self._parties[1:]
        ]
        if self._achieved:
            for unit, amount, scale, ceiling in (
                ("TFLOP/s", flops, 1e12, ceilings.get(dtype)),
                ("GB/s", nbytes, 1e9, ceilings.get("copy")),
            ):
                speed = amount / seconds
                share = f" ({speed / ceiling:>4.0%})" if ceiling and amount else ""
                cells.append(f"{f'{speed / scale:.1f}' + share if amount else '-':>14}")
                if amount:
                    figures[unit] = round(speed / scale, 2)
                if share and ceiling:
                    figures[f"{unit}, share of the ceiling"] = round(speed / ceiling, 4)
        error = max(times.errors.values(), default=math.nan)
        self._bench.say(f"{label:<{LABEL}}{''.join(cells)}{error:>9.0e}")
        for party, reason in times.dropped.items():
            if party == CAPTURED:
                self._bench.require(False, f"{label}, {party}: {reason}")
            else:
                self._bench.say(f"    {party} failed: {reason}")
        return figures


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:.1f}" if ms >= 100 else f"{ms:.2f}" if ms >= 10 else f"{ms:.4f}"


def _spread(speed: tuple[float, float, float]) -> str:
    median, low, high = speed
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def _measure_ops(bench: Bench, title: str, groups: dict[str, Sequence[Case]]) -> dict[str, Any]:
    """Ops forward and backward in each dtype, and for each group the geometric mean of our speed beside PyTorch's."""
    parties = bench.parties(*OPS)
    table = _Table(bench, f"{title}, ms on the device", parties)
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
    table: _Table,
    each: Case,
    dtype: str,
    way: str,
    label: str,
) -> Row:
    gradient = way == "backward"
    of_way = {name: both[gradient] for name, both in works.items()}
    with nullcontext() if gradient else inference():
        times = bench.compare(parties, of_way, limit=LIMITS[dtype][0], ahead=True)
    result = _result_shape(each)
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


def _result_shape(each: Case) -> tuple[int, ...]:
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
    table = _Table(bench, "Adam, ms on the device (channels_last: the fused one)", parties)
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


def _networks(
    bench: Bench,
    title: str,
    names: Sequence[str],
    rows: dict[str, tuple[str, Callable[[Party], Work], float]],
    *,
    weights_stay: bool,
) -> list[Row]:
    """Rows of works of parties: label -> (dtype, what a party does, images per call)."""
    parties = bench.parties(*names)
    table = _Table(bench, f"{title}, ms", parties, achieved=False)
    found = []
    for label, (dtype, make, count) in rows.items():

        def run(label: str = label, dtype: str = dtype, make: Any = make, count: float = count) -> Row:
            works = {name: make(party) for name, party in parties.items()}
            with inference() if weights_stay else nullcontext():
                times = bench.compare(parties, works, limit=LIMITS[dtype][1])
            row = table.row(label, times)
            return {"dtype": dtype, "images per second": round(count / times.median(times.first), 1), **row}

        row = bench.attempt(f"{title}, {label}", run)
        if row is not None:
            found.append(row)
    return found


def _forward(bench: Bench, batch: int, dtype: str) -> Callable[[Party], Work]:
    x, t, _ = images(batch, bench.plan.side)
    return lambda party: party.forward(x, t, dtype)


def _step(bench: Bench, batch: int, dtype: str) -> Callable[[Party], Work]:
    x, t, noise = images(batch, bench.plan.side)
    return lambda party: party.training_step(x, t, noise, dtype)


def measure_forward(bench: Bench) -> list[Row]:
    """The network's forward, as in a loop inside `minidiff.inference()`."""
    rows = {
        f"{SHORT[dtype]:<5}batch {batch}": (dtype, _forward(bench, batch, dtype), float(batch))
        for dtype in bench.plan.dtypes[:2]
        for batch in bench.plan.batches
    }
    return _networks(bench, "forward", NETWORKS, rows, weights_stay=True)


def measure_sampling(bench: Bench) -> list[Row]:
    """Drawing images with DDIM."""
    plan = bench.plan
    noise = images(plan.batch, plan.side)[2]
    rows: dict[str, tuple[str, Callable[[Party], Work], float]] = {
        f"{SHORT[dtype]:<5}batch {plan.batch}, {plan.ddim} steps": (
            dtype,
            partial(lambda dtype, party: party.ddim(noise, plan.ddim, dtype), dtype),
            float(plan.batch),
        )
        for dtype in reversed(plan.dtypes[:2])
    }
    return _networks(bench, "sampling, DDIM", NETWORKS, rows, weights_stay=True)


def measure_step(bench: Bench) -> list[Row]:
    """A training step: forward, mean squared error, backward, Adam."""
    batch = bench.plan.step_batch
    rows = {
        f"{SHORT[dtype]:<5}batch {batch}": (dtype, _step(bench, batch, dtype), float(batch))
        for dtype in reversed(bench.plan.dtypes[:2])
    }
    return _networks(bench, "training step", NETWORKS, rows, weights_stay=False)


def measure_memory(bench: Bench) -> dict[str, Any]:
    """The most memory that training steps take: what adds up, and what was measured."""
    plan, device = bench.plan, bench.device
    batch = plan.step_batch
    data = images(batch, plan.side)
    bench.say(f"\nmemory of a training step, batch {batch}, {plan.side}x{plan.side}, float32, MB")
    figures: dict[str, Any] = {"batch": batch}

    def train(name: str) -> Work:
        work = bench.parties(name)[name].training_step(*data, "float32")
        for _ in range(STEPS):
            work.run()
        return work

    parts = bench.attempt("predicted memory", partial(_predicted, bench))
    if parts is not None:
        figures["predicted MB"] = {name: round(n / 1e6, 1) for name, n in parts.items()}
        total = sum(parts.values())
        figures["predicted MB"]["sum"] = round(total / 1e6, 1)
        summands = " + ".join(f"{name} {n / 1e6:.0f}" for name, n in parts.items())
        bench.say(f"  predicted: {summands} = {total / 1e6:.0f}")
    figures["measured MB"] = {}
    for name in NETWORKS if bench.torch else NETWORKS[:2]:
        run = partial(device.peak_bytes, partial(train, name))
        peak = bench.attempt(f"memory, {name}", run)
        if peak is not None:
            figures["measured MB"][name] = round(peak / 1e6, 1)
            ratio = f", {peak / sum(parts.values()):.2f} of the prediction" if parts and name == OURS else ""
            bench.say(f"  measured, {name}: {peak / 1e6:.0f} taken from the device{ratio}")
    return figures


def _predicted(bench: Bench) -> dict[str, int]:
    """Bytes of parameters, gradients, Adam's moments and activations."""
    plan, backend = bench.plan, bench.device.backend
    parameters = 4 * network(backend, plan.channels).num_parameters()
    return {
        "parameters": parameters,
        "gradients": parameters,
        "moments": 2 * parameters,
        "activations": plan.step_batch * activation_bytes(backend, plan.channels, plan.side),
    }


def measure_compiled(bench: Bench) -> list[Row]:
    """Steps and forwards beside those that torch.compile made, as far as time goes: compiling takes a minute."""
    if bench.torch is None:
        bench.say("\ntorch.compile: left out, there is no PyTorch that can use this device")
        return []
    plan, found = bench.plan, []
    dtype = "float32"
    rows: dict[str, tuple[str, Callable[[Party], Work], float]] = {
        f"training step, {SHORT[dtype]}, batch {plan.step_batch}": (
            dtype,
            _step(bench, plan.step_batch, dtype),
            float(plan.step_batch),
        ),
        f"forward, {SHORT[dtype]}, batch {plan.batch}": (
            dtype,
            _forward(bench, plan.batch, dtype),
            float(plan.batch),
        ),
    }
    for party in COMPILED:
        for label, row in rows.items():
            stay = label.startswith("forward")
            names = (CAPTURED, OURS, party)
            found += _networks(bench, f"torch.compile, {party}", names, {label: row}, weights_stay=stay)
    return found


# What can be measured, and its part of the time, if all is.
SECTIONS: dict[str, tuple[Callable[[Bench], Any], float]] = {
    "check": (measure_checks, 110),
    "ceilings": (measure_ceilings, 10),
    "group_norm": (measure_group_norm, 25),
    "convolution": (measure_convolution, 75),
    "attention": (measure_attention, 20),
    "adam": (measure_adam, 8),
    "sampling": (measure_sampling, 30),
    "step": (measure_step, 45),
    "forward": (measure_forward, 30),
    "memory": (measure_memory, 12),
    "compiled": (measure_compiled, 75),
}
