"""The sections of `benchmarks.cpu`: each measures, prints rows as they come, and returns all figures for JSON."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleave import Comparison, Work, interleave, median_seconds
from benchmarks.parties import Minidiff, Party, op_calls
from minidiff import Generator, Parameter, backward, inference, ops, record
from minidiff.backend import Array
from minidiff.diffusion import DDIM, sample
from minidiff.models import UNet

__all__ = ["SECTIONS", "Plan"]

OURS, EAGER, CHANNELS_LAST = PARTIES = "minidiff", "PyTorch", "channels_last"
STATUS = Path("/proc/self/status")
TINY_SIDE = 8


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often.

    Attributes
    ----------
    threads : int
        Of every party.
    channels, batch, side : int
        The network is UNet(3, channels, 3); sections that do not vary them take this many images of this size.
    forward : tuple of (batch, side)
    steps : tuple of int
        Batches of the training steps.
    ddim : int
        Steps of a DDIM loop.
    batches, sides : tuple of int
        Of the growth; sides at batch 4.
    rounds : int
    least, least_op : float
        Seconds of calls in a sample; of one op.
    """

    threads: int
    channels: int = 64
    batch: int = 16
    side: int = 32
    forward: tuple[tuple[int, int], ...] = tuple((n, side) for side in (32, 64) for n in (1, 4, 16, 64))
    steps: tuple[int, ...] = (16, 64)
    ddim: int = 50
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    sides: tuple[int, ...] = (16, 32, 64, 96, 128)
    rounds: int = 7
    least: float = 0.1
    least_op: float = 0.01

    def quick(self) -> Plan:
        """A smaller plan, for a first look."""
        return replace(
            self,
            forward=((1, 32), (4, 32), (16, 32)),
            steps=(16,),
            ddim=3,
            batches=(1, 4),
            sides=(16, 32),
            rounds=5,
            least=0.05,
            least_op=0.005,
        )

    def interleave(
        self, title: str, works: dict[str, list[Work]], *, least: float | None = None
    ) -> list[Comparison]:
        """`interleave` with as many rounds and as long samples as are planned."""
        return interleave(title, works, rounds=self.rounds, least=self.least if least is None else least)

    def seconds(self, run: Callable[[], object]) -> float:
        """`median_seconds` with as many rounds and as long samples as are planned."""
        return median_seconds(run, rounds=self.rounds, least=self.least)


def parties(plan: Plan, names: Sequence[str] = PARTIES, *, calm: bool = False) -> dict[str, Party]:
    """Parties with the same weights, and threads as planned.

    Drawn weights amplify rounding a millionfold in 50 steps of DDIM; those of a `calm` network do not.
    """
    model = UNet(3, plan.channels, 3)
    if calm:
        model.final_conv.weight.data = model.final_conv.weight.data / 100
    made: dict[str, Party] = {}
    for name in names:
        if name == OURS:
            made[name] = Minidiff(model)
        else:
            from benchmarks.torch_networks import Eager

            made[name] = Eager(model, channels_last=name == CHANNELS_LAST)
        made[name].use_threads(plan.threads)
    return made


def tiny_parties(plan: Plan, names: Sequence[str] = PARTIES, *, calm: bool = False) -> dict[str, Party]:
    """Parties that do all that they do for the planned network, but hardly any arithmetic."""
    return parties(replace(plan, channels=2), names, calm=calm)


def inputs(batch: int, side: int) -> tuple[Array, Array, Array]:
    """Images, timesteps and noise."""
    x, noise = Generator(1).normal((2, batch, 3, side, side))
    return x, np.linspace(0, 999, batch).astype(np.int64), noise


class Table:
    """Rows of times, printed as they come."""

    def __init__(
        self,
        title: str,
        label: str,
        *,
        width: int = 20,
        times: Sequence[str] = PARTIES,
        ratios: Sequence[str] = PARTIES[1:],
    ) -> None:
        self._columns = {name: max(10, len(name) + 2) for name in times}
        self._width, self._ratios = width, ratios
        heads = "".join(f"{name:>{column}}" for name, column in self._columns.items())
        heads += "".join(f"{'to ' + name:>20}" for name in ratios)
        print(f"\n{title}\n{label:<{width}}{heads}{'error':>9}", flush=True)

    def row(self, label: str, comparison: Comparison) -> None:
        """Times in ms, ratios with their quartiles, and the greatest absolute error."""
        cells = [
            f"{_digits(comparison.milliseconds(name)):>{column}}" for name, column in self._columns.items()
        ]
        cells += [f"{_spread(comparison.ratio(name)):>20}" for name in self._ratios]
        error = max(comparison.errors.values())
        print(f"{label:<{self._width}}{''.join(cells)}{error:>9.0e}", flush=True)


def _digits(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def _spread(ratio: dict[str, float]) -> str:
    median, low, high = ratio.values()
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def measure_ops(plan: Plan) -> dict[str, Any]:
    """Every op of the network with a counterpart in PyTorch, forward and backward."""
    from benchmarks.torch_networks import COUNTERPARTS

    rivals = parties(plan)
    x, t, _ = inputs(plan.batch, plan.side)
    calls = op_calls(rivals[OURS].forward(x, t).run)
    counts = Counter(f"{call.name} {call}" for call in calls)
    unique = list({f"{call.name} {call}": call for call in calls}.values())
    compared = sorted((call for call in unique if call.name in COUNTERPARTS), key=lambda call: call.name)
    table = Table(
        f"ops, batch {plan.batch}, {plan.side}x{plan.side}, ms of one call",
        f"{'op':<11}{'shapes':<49}calls",
        width=75,
        ratios=[EAGER],
    )
    rows: list[dict[str, Any]] = []
    totals = {way: dict.fromkeys(PARTIES, 0.0) for way in ("forward", "backward")}
    for name, group in groupby(compared, key=lambda call: call.name):
        members = list(group)
        works = {party: [w for call in members for w in rival.op(call)] for party, rival in rivals.items()}
        found = iter(plan.interleave(name, works, least=plan.least_op))
        for call in members:
            count = counts[f"{name} {call}"]
            ways = {"forward": next(found), "backward": next(found)}
            for way, comparison in ways.items():
                table.row(f"{name:<11}{call!s:<49}{count:>3} {way}", comparison)
                for party in PARTIES:
                    totals[way][party] += count * comparison.milliseconds(party)
            described = {way: comparison.describe() for way, comparison in ways.items()}
            rows.append({"op": name, "shapes": str(call), "calls": count, **described})
    left_out = {
        name: n for name, n in Counter(call.name for call in calls).items() if name not in COUNTERPARTS
    }
    for way, total in totals.items():
        sums = ", ".join(f"{party} {_digits(ms)}" for party, ms in total.items())
        print(f"all calls of one {way}, ms: {sums}")
    print(f"not compared, since PyTorch has no such op: {left_out}")
    return {"calls": rows, "ms of all calls": totals, "not compared": left_out}


def measure_forward(plan: Plan) -> list[dict[str, Any]]:
    """The network's forward for each batch and side, as in a loop inside `minidiff.inference()`."""
    rivals = parties(plan)
    table = Table("forward, ms", "batch, pixels")
    rows = []
    for batch, side in plan.forward:
        x, t, _ = inputs(batch, side)
        works = {party: [rival.forward(x, t)] for party, rival in rivals.items()}
        with inference():
            (comparison,) = plan.interleave("forward", works)
        table.row(f"{batch:<4} {side}x{side}", comparison)
        rows.append({"batch": batch, "side": side, **comparison.describe()})
    return rows


def measure_step(plan: Plan) -> dict[str, Any]:
    """A training step for each batch, and what autodiff costs in it."""
    table = Table(f"training step, {plan.side}x{plan.side}, ms", "batch")
    rows = []
    calls = len(op_calls(tiny_parties(plan)[OURS].training_step(*inputs(1, TINY_SIDE)).run))
    autodiff = _call_costs(plan)[1]
    for batch in plan.steps:
        rivals = parties(plan)
        x, t, noise = inputs(batch, plan.side)
        works = {party: [rival.training_step(x, t, noise)] for party, rival in rivals.items()}
        (comparison,) = plan.interleave("training step", works)
        table.row(str(batch), comparison)
        share = 1e3 * calls * autodiff / comparison.milliseconds(OURS)
        print(
            f"     autodiff: {calls} recorded ops x {autodiff * 1e6:.1f} µs = {share:.2%} of minidiff's step"
        )
        rows.append(
            {
                "batch": batch,
                **comparison.describe(),
                "recorded ops": calls,
                "share of autodiff": round(share, 5),
            }
        )
    return {"steps": rows, "µs of autodiff per recorded op": round(autodiff * 1e6, 2)}


def measure_ddim(plan: Plan) -> dict[str, Any]:
    """A DDIM loop, and what Python costs in it."""
    rivals = parties(plan, calm=True)
    noise = inputs(plan.batch, plan.side)[2]
    table = Table(f"DDIM, {plan.ddim} steps, batch {plan.batch}, {plan.side}x{plan.side}, ms", "")
    works = {party: [rival.ddim(noise, plan.ddim)] for party, rival in rivals.items()}
    (loop,) = plan.interleave("DDIM", works)
    table.row("loop", loop)

    rivals = tiny_parties(plan, calm=True)
    x, t, dot = inputs(1, TINY_SIDE)
    works = {party: [rival.ddim(dot, plan.ddim)] for party, rival in rivals.items()}
    (tiny,) = plan.interleave("DDIM", works)
    table.row("loop, tiny network", tiny)

    calls = plan.ddim * len(op_calls(rivals[OURS].forward(x, t).run))
    ready = partial(sample, lambda x, t: noise, noise.shape, DDIM(), steps=plan.ddim, rng=Generator(0))
    whole = loop.milliseconds(OURS)
    overhead = {
        "sampler": (
            "the loop with an array in the network's place",
            1e3 * plan.seconds(partial(ready, initial=noise)),
        ),
        "dispatch": (f"{calls} ops, each beyond its NumPy call", 1e3 * calls * _call_costs(plan)[0]),
        "tiny network": (
            "the loop of UNet(3, 2, 3) on one 8x8 image: all calls, hardly any arithmetic",
            tiny.milliseconds(OURS),
        ),
    }
    print("overhead, and its share of minidiff's loop")
    for name, (meaning, ms) in overhead.items():
        print(f"  {name:<14}{meaning:<78}{_digits(ms):>8} ms{ms / whole:>8.2%}")
    return {
        "steps": plan.ddim,
        "batch": plan.batch,
        **loop.describe(),
        "tiny network": tiny.describe(),
        "overhead": {
            name: {"is": meaning, "ms": round(ms, 3), "share": round(ms / whole, 5)}
            for name, (meaning, ms) in overhead.items()
        },
    }


def _call_costs(plan: Plan, chain: int = 100) -> tuple[float, float]:
    """Seconds that `ops.negative` of one element takes beyond NumPy's, unrecorded and recorded.

    The second includes the way back, and is beyond the two calls of NumPy that forward and backward need.
    """
    one = np.ones(1, np.float32)
    parameter = Parameter(one)

    def recorded() -> None:
        with record():
            y = parameter
            for _ in range(chain):
                y = ops.negative(y)
            end = ops.sum(y)
        backward(end)

    bare = plan.seconds(lambda: np.negative(one))
    return plan.seconds(lambda: ops.negative(one)) - bare, plan.seconds(recorded) / chain - 2 * bare


def measure_memory(plan: Plan) -> dict[str, Any]:
    """How far training steps raise the resident size, each party in a process of its own."""
    if not STATUS.exists():
        print("\nmemory: left out, since it is read from Linux's /proc")
        return {}
    print(f"\nmemory of a training step, batch {plan.batch}, {plan.side}x{plan.side}, MB resident")
    print(f"{'':<16}{'before':>10}{'peak':>10}{'difference':>12}{'ratio':>8}")
    rows: dict[str, dict[str, float]] = {}
    for party in PARTIES:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            rows[party] = process.submit(resident, party, plan).result()
        before, peak, difference = rows[party].values()
        print(f"{party:<16}{before:>10.0f}{peak:>10.0f}{difference:>12.0f}", end="")
        ratio = rows[OURS]["difference"] / difference
        print("" if party == OURS else f"{ratio:>8.2f}", flush=True)
    ratios = {other: round(rows[OURS]["difference"] / rows[other]["difference"], 3) for other in PARTIES[1:]}
    return {"batch": plan.batch, "MB": rows, "ratio to": ratios}


def resident(party: str, plan: Plan, steps: int = 3) -> dict[str, float]:
    """Resident size of this process in MB: with weights and inputs made, and at the peak of the training steps.

    So the difference is gradients, moments, activations and workspaces. A step of a tiny network comes before
    all this, so that it does not hold the code that libraries load on first use.
    """
    tiny_parties(plan, [party])[party].training_step(*inputs(2, TINY_SIDE)).run()
    work = parties(plan, [party])[party].training_step(*inputs(plan.batch, plan.side))
    ctypes.CDLL(None).malloc_trim(0)  # else steps would take up what making the weights left free
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak
    for _ in range(steps):
        work.run()
    peak = _status("VmHWM")
    return {"before": round(before, 1), "peak": round(peak, 1), "difference": round(peak - before, 1)}


def _status(name: str) -> float:
    """A size that Linux reports, in MB."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def measure_growth(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """The forward's time against batch, side and threads."""
    rivals = parties(plan, PARTIES[:2])
    table = Table("growth of the forward, ms", "", times=PARTIES[:2], ratios=[EAGER])

    def point(label: str, batch: int, side: int) -> dict[str, Any]:
        x, t, _ = inputs(batch, side)
        works = {party: [rival.forward(x, t)] for party, rival in rivals.items()}
        with inference():
            (comparison,) = plan.interleave("growth", works)
        table.row(label, comparison)
        return comparison.describe()

    def threaded(threads: int) -> dict[str, Any]:
        for rival in rivals.values():
            rival.use_threads(threads)
        return point(f"threads {threads}", plan.batch, plan.side)

    return {
        "batch": [{"batch": n, **point(f"batch {n}", n, plan.side)} for n in plan.batches],
        "side": [{"side": s, **point(f"side {s}", 4, s)} for s in plan.sides],
        "threads": [
            {"threads": n, **threaded(n)}
            for n in sorted({*(2**i for i in range(plan.threads.bit_length())), plan.threads})
        ],
    }


SECTIONS: dict[str, Callable[[Plan], Any]] = {
    "ops": measure_ops,
    "forward": measure_forward,
    "step": measure_step,
    "ddim": measure_ddim,
    "memory": measure_memory,
    "growth": measure_growth,
}
