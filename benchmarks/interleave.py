"""Times of parties that take turns, so that whatever slows the machine down slows all of them.

Before anything is timed, every party runs once, and all must have computed the same; then all warm up once more.
Then come rounds: in each, one party after the other takes a sample of every work. A ratio is taken within a
round; reported are the median of the rounds and, as the spread, their quartiles.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

__all__ = ["Comparison", "Disagreement", "Work", "interleave", "median_seconds", "rest"]

PAUSE = 0.15  # seconds; waiting for work, OpenMP's threads spin for 10 ms and OpenBLAS's for 0.1 s
PATIENCE = 4.0  # seconds to wait for other programs
TOLERANCE = 1e-3  # of the greatest absolute value
LONG = 5.0  # seconds; works that take longer get `FEW` rounds
FEW = 3
ALONE = 1.0  # seconds; a call that takes as long is a sample, others come after one that wakes threads and fills caches
AT_MOST = 4.0  # times the length of a sample, with preparations

_STAT = Path("/proc/stat")


class Disagreement(Exception):
    """Two parties computed different things."""


@dataclass(frozen=True)
class Work:
    """What is timed, `run(*arguments)`, where `prepare` makes the arguments, untimed and anew for every call."""

    run: Callable[..., Any]
    prepare: Callable[[], tuple[Any, ...]] = tuple


@dataclass(frozen=True)
class Comparison:
    """The first party beside the others.

    Attributes
    ----------
    seconds : dict of str to list of float
        By party, the time of a call in each round.
    errors : dict of str to float
        By other party, the greatest absolute difference of its results from the first party's.
    """

    seconds: dict[str, list[float]]
    errors: dict[str, float]

    def milliseconds(self, party: str) -> float:
        """Of a call, the median of the rounds."""
        return 1e3 * statistics.median(self.seconds[party])

    def ratio(self, other: str) -> dict[str, float]:
        """Of the first party's time to the other's: median and quartiles of the rounds."""
        first = next(iter(self.seconds.values()))
        ratios = [a / b for a, b in zip(first, self.seconds[other], strict=True)]
        low, median, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
        return {"median": median, "lower quartile": low, "upper quartile": high}

    def describe(self) -> dict[str, Any]:
        """All figures as JSON values."""
        return {
            "ms": {party: round(self.milliseconds(party), 4) for party in self.seconds},
            "ratio to": {
                other: {name: round(value, 4) for name, value in self.ratio(other).items()}
                for other in self.errors
            },
            "rounds": len(next(iter(self.seconds.values()))),
            "max abs error": {other: float(f"{error:.3g}") for other, error in self.errors.items()},
        }


def rest(patience: float) -> None:
    """Sleep until threads that spin have stopped and, for up to `patience` seconds, other programs too."""
    until = time.monotonic() + patience
    while True:
        all_before, own_before = _busy_seconds(), time.process_time()
        time.sleep(PAUSE)
        others = (_busy_seconds() - all_before) - (time.process_time() - own_before)
        if others <= 0.1 * PAUSE or time.monotonic() >= until:
            return


def interleave(
    title: str,
    parties: Mapping[str, Sequence[Work]],
    *,
    rounds: int,
    least: float,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = rest,
) -> list[Comparison]:
    """Compare what parties compute, then how long they take.

    Parameters
    ----------
    title : str
        For the progress bar and for errors.
    parties : mapping of str to sequence of Work
        Work i of every party must compute the same: an array, a sequence of results, or a mapping of arrays.
    rounds : int
        How often each party takes its turn; `FEW` if a call took more than `LONG` seconds.
    least : float
        Seconds of calls in one sample, after one that does not count unless it takes `ALONE`; fewer if preparations
        take `AT_MOST` times as long.
    clock, rest : callable
        The time in seconds; called before each turn, with how long to wait for other programs.

    Returns
    -------
    list of Comparison
        One for each work.

    Raises
    ------
    Disagreement
        If an array differs by more than `TOLERANCE` of its greatest absolute value, or of the greatest in its
        mapping (some gradients of a network are zero but for rounding); nothing was timed then.
    """
    works = len(next(iter(parties.values())))
    errors, longest = [], 0.0
    for i in range(works):
        outputs = {}
        for party, own in parties.items():
            seconds, outputs[party] = _call(own[i], clock)
            longest = max(longest, seconds)
        errors.append(_errors(title, outputs))
    if longest <= LONG:
        for own in parties.values():
            for work in own:
                _call(work, clock)  # caches may fill when something is seen for the second time
    times: list[dict[str, list[float]]] = [{party: [] for party in parties} for _ in range(works)]
    for _ in tqdm(
        range(rounds if longest <= LONG else min(FEW, rounds)), desc=title, leave=False, disable=None
    ):
        for turn, (party, own) in enumerate(parties.items()):
            rest(0.0 if turn else PATIENCE)
            for i in range(works):
                times[i][party].append(_sample(own[i], least, clock))
    return [Comparison(seconds, error) for seconds, error in zip(times, errors, strict=True)]


def median_seconds(run: Callable[[], Any], *, rounds: int, least: float) -> float:
    """The median time of a call, where there is nothing to compare it with."""
    rest(PATIENCE)
    return statistics.median(_sample(Work(run), least, time.perf_counter) for _ in range(rounds))


def _call(work: Work, clock: Callable[[], float]) -> tuple[float, Any]:
    arguments = work.prepare()
    began = clock()
    result = work.run(*arguments)
    return clock() - began, result


def _sample(work: Work, least: float, clock: Callable[[], float]) -> float:
    first = _call(work, clock)[0]
    if first >= ALONE:
        return first
    total, calls, end = 0.0, 0, clock() + AT_MOST * least
    while not calls or (total < least and clock() < end):
        total += _call(work, clock)[0]
        calls += 1
    return total / calls


def _errors(title: str, outputs: Mapping[str, Any]) -> dict[str, float]:
    first, *others = outputs
    ours = list(_parts(outputs[first], "result"))
    errors = dict.fromkeys(others, 0.0)
    for other in others:
        theirs = list(_parts(outputs[other], "result"))
        names, other_names = ([sorted(part) for part in parts] for parts in (ours, theirs))
        if names != other_names:
            raise Disagreement(f"{title}: {first} gives {names}, {other} {other_names}")
        for our, their in zip(ours, theirs, strict=True):
            size = np.max([np.abs(y).max() for y in their.values()])
            for path, y in their.items():
                error = float(np.abs(our[path] - y).max())
                if not error <= TOLERANCE * size:
                    raise Disagreement(
                        f"{title}: {first} and {other} disagree, {path} by up to {error:.3g} where values "
                        f"reach {size:.3g}; nothing was timed"
                    )
                errors[other] = max(errors[other], error)
    return errors


def _parts(result: Any, path: str) -> Iterator[dict[str, Any]]:
    """The arrays of a result by path, those of a mapping together."""
    if isinstance(result, list | tuple):
        for i, part in enumerate(result):
            yield from _parts(part, f"{path}.{i}")
    elif isinstance(result, Mapping):
        yield {f"{path}.{name}": np.asarray(array) for name, array in result.items()}
    else:
        yield {path: np.asarray(result)}


def _busy_seconds() -> float:
    """CPU time that all programs have used, user, nice, system, interrupts and steal; 0 where Linux is not."""
    if not _STAT.exists():
        return 0.0
    fields = [int(n) for n in _STAT.read_text(encoding="ascii").split(maxsplit=9)[1:9]]
    return sum(fields[i] for i in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")
