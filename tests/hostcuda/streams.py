"""Streams, events and graphs. Work on a stream runs as late as CUDA may run it: when somebody waits for it.

A stream is a queue. What is missing between two streams, or between a stream and the host, so shows in the results.
As CUDA's own, the default stream and those that were not made "non-blocking" wait for each other: they are one queue.

While a stream is captured, CUDA lets another stream run on, and takes a copy from host memory into the graph, where it
copies what will then be there. Nobody here means that, so here these are errors, too.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cupy_backends.cuda.api.runtime import CUDARuntimeError

from tests.hostcuda import memory

__all__ = ["FUNCTIONS", "add", "capturing", "finish", "finish_all", "handles", "may_wait", "refused", "waits"]

Work = Callable[[], None]
NOT_READY, UNSUPPORTED, INVALIDATED = 600, 900, 901  # cudaErrorNotReady, cudaErrorStreamCapture...

handles = itertools.count(1 << 20)  # of streams, events, graphs, modules and functions
waits: list[str] = []  # what the host waited for


@dataclass(eq=False)
class Graph:
    """Work, and the memory in which it is done."""

    work: list[Work] = field(default_factory=list)
    blocks: set[memory.Block] = field(default_factory=set)
    broken: bool = False

    def __call__(self) -> None:
        """Do it."""
        gone = [block for block in self.blocks if block.freed]
        if gone:
            sizes = ", ".join(f"{block.size:,}" for block in gone)
            raise RuntimeError(f"a graph is replayed over memory that was freed: blocks of {sizes} bytes")
        for work in self.work:
            work()


@dataclass(eq=False)
class Event:
    """A place in a queue."""

    queue: deque[Work] | None = None
    passed: float | None = None  # when, in seconds

    def wait(self) -> None:
        """Run its queue up to there."""
        while self.queue is not None and self.passed is None:
            self.queue.popleft()()

    def __call__(self) -> None:
        """The queue has come here."""
        self.passed = time.perf_counter()


_default: deque[Work] = deque()
_queues: dict[int, deque[Work]] = {0: _default, 1: _default, 2: deque()}  # 1, 2: legacy, of a thread
_captures: dict[int, Graph] = {}  # by stream
_graphs: dict[int, Graph] = {}
_events: dict[int, Event] = {}


def add(stream: int, work: Work, addresses: Callable[[], Iterable[int]] = tuple) -> None:
    """Queue work, or let it be captured together with the blocks of memory at the addresses that it uses."""
    if _captures and stream not in _captures:
        raise refused()
    if stream not in _captures:
        _queues[stream].append(work)
        return
    capture = _captures[stream]
    capture.work.append(work)
    capture.blocks.update(block for block in map(memory.block_at, addresses()) if block)


def capturing() -> bool:
    """Whether a stream is captured."""
    return bool(_captures)


def may_wait(what: str) -> None:
    """Write down that the host waits, for which nothing may be captured."""
    if _captures:
        raise refused()
    waits.append(what)


def finish(stream: int) -> None:
    """Run what is queued on a stream."""
    queue = _queues[stream]
    while queue:
        queue.popleft()()


def finish_all() -> None:
    """Run all that is queued."""
    for stream in list(_queues):
        finish(stream)


def refused() -> CUDARuntimeError:
    """The error for what cannot be captured, which also spoils what is captured now."""
    for capture in _captures.values():
        capture.broken = True
    return CUDARuntimeError(UNSUPPORTED)


# --- CUDA's functions ------------------------------------------------------------------------------------


def _create(flags: int = 0, priority: int = 0) -> int:
    stream = next(handles)
    _queues[stream] = deque() if flags & 1 else _default  # cudaStreamNonBlocking
    return stream


def _destroy(stream: int) -> None:
    finish(stream)
    del _queues[stream]


def _synchronize(stream: int) -> None:
    may_wait("stream")
    finish(stream)


def _device_synchronize() -> None:
    may_wait("device")
    finish_all()


def _begin_capture(stream: int) -> None:
    _captures[stream] = Graph()


def _end_capture(stream: int) -> int:
    capture = _captures.pop(stream)
    if capture.broken:
        raise CUDARuntimeError(INVALIDATED)
    graph = next(handles)
    _graphs[graph] = capture
    return graph


def _instantiate(graph: int) -> int:
    executable = next(handles)
    _graphs[executable] = _graphs[graph]
    return executable


def _launch_graph(graph: int, stream: int) -> None:
    add(stream, _graphs[graph])


def _destroy_graph(graph: int) -> None:
    del _graphs[graph]


def _create_event(flags: int = 0) -> int:
    event = next(handles)
    _events[event] = Event()
    return event


def _record(event: int, stream: int) -> None:
    _events[event] = Event(_queues[stream])
    add(stream, _events[event])


def _query_event(event: int) -> int:
    return 0 if _events[event].queue is None or _events[event].passed is not None else NOT_READY


def _synchronize_event(event: int) -> None:
    may_wait("event")
    _events[event].wait()


def _wait_event(stream: int, event: int) -> None:
    add(stream, _events[event].wait)


def _elapsed(first: int, last: int) -> float:
    start, end = _events[first].passed, _events[last].passed
    if start is None or end is None:
        raise CUDARuntimeError(NOT_READY)
    return (end - start) * 1e3


FUNCTIONS = {
    "deviceSynchronize": _device_synchronize,
    "streamCreate": _create,
    "streamCreateWithFlags": _create,
    "streamCreateWithPriority": _create,
    "streamDestroy": _destroy,
    "streamSynchronize": _synchronize,
    "streamQuery": lambda stream: NOT_READY if _queues[stream] else 0,
    "streamIsCapturing": lambda stream: int(stream in _captures),
    "streamWaitEvent": _wait_event,
    "streamBeginCapture": _begin_capture,
    "streamEndCapture": _end_capture,
    "graphInstantiate": _instantiate,
    "graphLaunch": _launch_graph,
    "graphDestroy": _destroy_graph,
    "graphExecDestroy": _destroy_graph,
    "eventCreate": _create_event,
    "eventCreateWithFlags": _create_event,
    "eventDestroy": lambda event: _events.pop(event) and None,
    "eventRecord": _record,
    "eventQuery": _query_event,
    "eventSynchronize": _synchronize_event,
    "eventElapsedTime": _elapsed,
}  # of cupy_backends.cuda.api.runtime
