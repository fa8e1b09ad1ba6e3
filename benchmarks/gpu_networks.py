"""Forwards, loops and steps of the network, timed as users see them: with launches and Python, if not captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from benchmarks.gpu_bench import CAPTURED, CHANNELS_LAST, COMPILED, EAGER, LIMITS, OURS, Bench
from benchmarks.gpu_parties import Party, images
from benchmarks.gpu_table import SHORT, Row, Table
from benchmarks.interleave import Work
from minidiff import inference

__all__ = ["NETWORKS", "measure_compiled", "measure_forward", "measure_sampling", "measure_step"]

NETWORKS = CAPTURED, OURS, EAGER, CHANNELS_LAST


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
    table = Table(bench, f"{title}, ms", parties, achieved=False)
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
