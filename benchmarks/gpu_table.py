"""Rows of times and speeds, and what was achieved beside what the GPU can do, as `benchmarks.gpu` prints them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

from benchmarks.gpu_bench import CAPTURED, Bench
from benchmarks.gpu_timing import Times

__all__ = ["SHORT", "Row", "Table"]

SHORT = {"float32": "TF32", "float16": "f16", "bfloat16": "bf16"}
LABEL = 58

Row: TypeAlias = dict[str, Any]


class Table:
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
