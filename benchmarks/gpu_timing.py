"""Times on a device: parties take turns, inputs come from memory and not from a cache, and time is limited."""

from __future__ import annotations

import faulthandler
import itertools
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.gpu_device import Device
from benchmarks.interleave import Work

__all__ = ["Budget", "OutOfTime", "Times", "interleave", "relative", "rotating", "sets_for"]

MOST_CALLS = 32  # in a sample; a GPU's queue holds about a thousand launches
LONGEST_HOLD = 0.05  # seconds
CACHES = 2  # how often rotating inputs would fill the cache
FEWEST_ROUNDS = 3
SHARE_OF_MEMORY = 8  # of what is free, one part of so many is for rotating inputs
GRACE = 30.0  # seconds after the end of all time, for what OutOfTime does not reach

Host = np.ndarray[Any, Any]


class OutOfTime(BaseException):
    """What runs has used up its time; no library that catches every Exception keeps it."""


class Budget:
    """Seconds for all sections, shared out by weight; what a section leaves is for those after it."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = self._section_end = clock() + seconds

    def share(self, part: float) -> None:
        """Give the section that begins now this part of what is left."""
        now = self._clock()
        self._section_end = now + part * (self._end - now)

    def left(self) -> float:
        """Seconds of the section."""
        return min(self._section_end, self._end) - self._clock()

    @contextmanager
    def limit(self) -> Iterator[None]:
        """End what runs inside when all time is used up, by OutOfTime, where the system has timers.

        What a section has begun may run on beyond the section's own end. Who waits for a kernel that never ends hears
        of no time; `GRACE` later the process is ended, after saying where it was.
        """
        seconds = max(self._end - self._clock(), 1e-3)
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again, should somebody have swallowed it
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=2)  # whatever sys.stderr is
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Times:
    """The first party that did not fail beside the others.

    Attributes
    ----------
    seconds : dict of str to list of float
        By party, the time of a call in each round.
    errors : dict of str to float
        By other party, relative norm of the difference between its results and the first party's.
    dropped : dict of str to str
        Parties that failed, and why.
    """

    seconds: dict[str, list[float]]
    errors: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The party whose speed is given."""
        return next(iter(self.seconds))

    def median(self, party: str) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds[party])

    def speed(self, other: str) -> tuple[float, float, float]:
        """The first party's speed in parts of the other's: median and quartiles of the rounds."""
        ratios = [b / a for a, b in zip(self.seconds[self.first], self.seconds[other], strict=True)]
        low, median, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
        return median, low, high

    def describe(self) -> dict[str, Any]:
        """All figures as JSON values."""
        quartiles = {party: np.quantile(own, (0.25, 0.5, 0.75)) for party, own in self.seconds.items()}
        names = "lower quartile", "median", "upper quartile"
        return {
            "ms": {
                party: {name: _short(1e3 * x) for name, x in zip(names, three, strict=True)}
                for party, three in quartiles.items()
            },
            "speed to": {
                other: dict(zip(("median", *names[::2]), map(_short, self.speed(other)), strict=True))
                for other in list(self.seconds)[1:]
            },
            "rounds": len(self.seconds[self.first]),
            "relative error": {other: _short(error) for other, error in self.errors.items()},
            "failed": self.dropped,
        }


def _short(x: float) -> float:
    return float(f"{x:.4g}")


def sets_for(device: Device, nbytes: int) -> int:
    """How many sets of inputs of this size, read in turns, cannot stay in the cache, and fit into memory."""
    wanted = -(-CACHES * device.cache_bytes // max(1, nbytes)) + 1
    return max(2, min(wanted, MOST_CALLS, device.free_bytes() // SHARE_OF_MEMORY // max(1, nbytes)))


def rotating(sets: Sequence[tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
    """A function that returns the sets in turns, without an end."""
    turns = itertools.cycle(sets)
    return lambda: next(turns)


def interleave(
    device: Device,
    works: Mapping[str, Work],
    to_host: Mapping[str, Callable[[Any], Any]],
    *,
    needed: str,
    rounds: int,
    least: float,
    ahead: bool,
    limit: float,
    budget: Budget,
) -> Times:
    """Compare what parties compute, then how long the device takes.

    Parameters
    ----------
    works : mapping of str to Work
        Arguments are prepared before a sample, and in no party's time.
    to_host : mapping of str to callable
        Turns an array of that party into NumPy's.
    needed : str
        The party that may not fail; others are dropped.
    rounds : int
        How often each party takes its turn; at least `FEWEST_ROUNDS` when time runs out.
    least : float
        Seconds of calls in one sample, of at most `MOST_CALLS`.
    ahead : bool
        Let the host queue a sample's calls before the device begins, so that launching takes no part.
    limit : float
        The largest relative error that other parties' results may have beside the first party's.

    Raises
    ------
    ArithmeticError
        If the results of another party, that did not fail, are further away; nothing was timed then.
    """
    ours: list[Host] | None = None
    samplers: dict[str, _Sampler] = {}
    errors, dropped = {}, {}
    for party, work in works.items():
        try:
            results = list(_parts(work.run(*work.prepare()), to_host[party]))
            if ours is not None:
                errors[party] = max(map(relative, ours, results), default=0.0)
            samplers[party] = _Sampler(device, work, least, ahead)
        except Exception as reason:
            if party == needed:
                raise
            dropped[party] = f"{type(reason).__name__}: {str(reason).strip().partition(chr(10))[0]}"
            continue
        ours = results if ours is None else ours
    wrong = [f"{party} by {error:.1e}" for party, error in errors.items() if not error <= limit]
    if wrong:
        raise ArithmeticError(
            f"results differ from those of {', '.join(wrong)}, above {limit:.0e}; not timed"
        )
    seconds: dict[str, list[float]] = {party: [] for party in samplers}
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and budget.left() <= 0:
            break
        for party, sampler in samplers.items():
            seconds[party].append(sampler.sample())
    return Times(seconds, errors, dropped)


class _Sampler:
    """Takes samples of a work; making one warms the work up, and finds how many calls a sample has."""

    def __init__(self, device: Device, work: Work, least: float, ahead: bool) -> None:
        self._device, self._work = device, work
        self._calls, self._hold = 1, 0.0
        self.sample()
        began = time.perf_counter()
        once = self.sample()
        host = (
            time.perf_counter() - began
        )  # of one call, preparation and all: no less than what queueing takes
        self._calls = max(1, min(MOST_CALLS, math.ceil(least / max(once, 1e-9))))
        if ahead:
            self._calls = max(1, min(self._calls, int(LONGEST_HOLD / max(host, 1e-9))))
            self._hold = min(LONGEST_HOLD, self._calls * host)

    def sample(self) -> float:
        """Seconds of a call."""
        arguments = [self._work.prepare() for _ in range(self._calls)]

        def run() -> None:
            while arguments:
                self._work.run(*arguments.pop())

        return self._device.elapsed(run, self._hold) / self._calls


def relative(actual: Host, expected: Host) -> float:
    """Norm of the difference relative to that of the expected array, which counts as 1 if it is smaller."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise ArithmeticError(f"shapes {actual.shape} and {expected.shape}")
    difference = float(np.linalg.norm((actual - expected).ravel()))
    return difference / max(float(np.linalg.norm(expected.ravel())), 1.0)


def _parts(result: Any, to_host: Callable[[Any], Any]) -> Iterator[Host]:
    """The arrays of a result; those of a mapping as one, in the order of their names."""
    if isinstance(result, list | tuple):
        for part in result:
            yield from _parts(part, to_host)
    elif isinstance(result, Mapping):
        yield np.concatenate([np.ravel(to_host(result[name])) for name in sorted(result)])
    else:
        yield np.asarray(to_host(result))
