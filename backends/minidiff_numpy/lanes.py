"""Lanes: the caller and a few worker threads, each of which runs whole NumPy calls with BLAS at one thread.

BLAS's own threads serve one large product at a time, and spin while they wait for each
other in between; convolution is many small products, transforms and copies. Cutting a
batch into work items and giving those to lanes keeps every core busy with all of it.

Manners: BLAS's thread count is one while lanes run and restored after; the caller's
threads and affinities are never touched; a call from a second thread, or from inside a
lane, does its work itself; after a fork the child makes lanes of its own. Which lane
takes an item does not change results, since every item writes its own part of them.
"""

from __future__ import annotations

import contextvars
import ctypes
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from minidiff_numpy.layout import Array

__all__ = ["count", "each", "scratch", "set_num_threads", "sharing"]

T = TypeVar("T")

_WORTH = 20_000_000  # multiplications

_busy = threading.Lock()  # held while lanes run
_workers: list[tuple[int, SimpleQueue[Any]]] = []  # each with its core
_count = 0  # not asked for yet
_blas: list[tuple[Callable[[], int], Callable[[int], object]]] | None = (
    None  # get and set the threads of NumPy's BLAS
)
_own = threading.local()  # of each thread: its buffers by number
_shared_buffers: list[dict[int, Array]] = []  # for the workers that are at work


def count() -> int:
    """How many lanes there are: `set_num_threads`, else MINIDIFF_NUM_THREADS, else the cores of this process."""
    if not _count:
        asked = os.environ.get("MINIDIFF_NUM_THREADS") or str(len(_cores()))
        if not asked.isdecimal():
            raise ValueError(f"MINIDIFF_NUM_THREADS must be a whole number, got {asked!r}")
        set_num_threads(int(asked))
    return _count


def set_num_threads(threads: int) -> None:
    """Use this many lanes from now on; 1 computes in the caller's thread.

    Raises
    ------
    ValueError
        If `threads` is below 1.
    """
    global _count
    if threads < 1:
        raise ValueError(f"set_num_threads: at least 1 thread is needed, got {threads}")
    with _busy:
        _count = threads
        for _, inbox in _workers:
            inbox.put(None)
        _workers.clear()


def sharing(multiplications: int) -> int:
    """How many lanes share work of that size: one, the caller's, if it is too little to wake another for."""
    return count() if multiplications >= _WORTH else 1


def each(function: Callable[[T], object], items: Iterable[T], *, multiplications: int) -> None:
    """Call `function(item)` for every item, on all lanes at once; return when all are done.

    Waking a lane takes as long as some ten million multiplications. Work of which there is
    less, as the number of its multiplications says, is done by the caller.
    """
    work = list(items)
    lanes = min(sharing(multiplications), len(work))
    if _busy.locked():
        _alone(function, work)
        return
    with _busy, _single_threaded_blas():
        if lanes < 2:
            _alone(function, work)
        else:
            _share(function, iter(work), lanes)


def _alone(function: Callable[[T], object], work: Iterable[T]) -> None:
    for item in work:
        function(item)


def _share(function: Callable[[T], object], work: Iterator[T], lanes: int) -> None:
    """Let the caller and `lanes` - 1 workers take items until there are none; raise the first error."""
    turn, end = threading.Lock(), object()
    errors: list[Any] = []  # if there is something in it, no more work is taken

    def take() -> None:
        try:
            while True:
                with turn:
                    item: Any = end if errors else next(work, end)
                if item is end:
                    return
                function(item)
        except BaseException as error:
            errors.append(error)

    try:
        _everywhere(take, lanes - 1, errors)
        if errors:
            raise errors[0]
    finally:
        errors[:] = [None] * len(errors)  # an error and this frame would keep each other, and arrays


def _everywhere(take: Callable[[], None], workers: int, errors: list[Any]) -> None:
    """Call `take` here and in so many workers, and wait for them.

    Ctrl-C may come at any moment. Then, too, the caller waits: buffers of the workers, and arrays that they write to,
    are about to be used for something else. A worker that an interrupted caller tells twice finds no work left.
    """
    finished: set[int] = set()
    wake: SimpleQueue[None] = SimpleQueue()

    def done(worker: int) -> None:
        finished.add(worker)
        wake.put(None)

    inboxes, told = _helpers(workers), 0
    while len(_shared_buffers) < len(inboxes):
        _shared_buffers.append({})
    tasks = [
        (contextvars.copy_context(), take, partial(done, i), _shared_buffers[i]) for i in range(len(inboxes))
    ]
    while True:
        try:
            while told < len(inboxes):
                inboxes[told].put(tasks[told])
                told += 1
            take()
            while len(finished) < len(inboxes):
                wake.get()
            return
        except BaseException as error:
            errors.append(error)


def _helpers(number: int) -> list[SimpleQueue[Any]]:
    """Workers on other cores than the one that the caller runs on now."""
    if not _workers:
        for core in itertools.islice(itertools.cycle(_cores()), _count):
            inbox: SimpleQueue[Any] = SimpleQueue()
            thread = threading.Thread(target=_serve, args=(inbox, core), name="minidiff-lane", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads for this process, or none any more at its end
                break
            _workers.append((core, inbox))
    here = _current_core()
    return [inbox for _, inbox in sorted(_workers, key=lambda worker: worker[0] == here)][:number]


def _serve(inbox: SimpleQueue[Any], core: int) -> None:
    """A worker's life. It stays on one core: else Linux wakes it on the caller's, where it waits for milliseconds."""
    with suppress(
        AttributeError, OSError
    ):  # a system without affinities, or a core that was taken away since
        os.sched_setaffinity(0, {core})
    while (task := inbox.get()) is not None:
        context, take, done, _own.buffers = task
        context.run(take)
        del task, context, take  # what it worked on is the caller's to keep or free
        done()
        del done


@lru_cache(maxsize=1)
def _libc() -> Any:
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return None


def _current_core() -> int:
    """The core that this thread runs on, or -1 where the system does not say."""
    ask = _libc()
    return ask() if ask else -1


def scratch(number: int, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """One of this lane's buffers, with whatever is in it; the next call with the same number uses it again."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not hasattr(_own, "buffers"):
        _own.buffers = {}
    buffer: Array | None = _own.buffers.get(number)
    if buffer is None or buffer.size < size:
        buffer = _own.buffers[number] = np.empty(size, np.uint8)
    array: Array = buffer[:size].view(dtype).reshape(shape)
    return array


def _cores() -> list[int]:
    return (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    global _blas
    if _blas is None:
        from threadpoolctl import ThreadpoolController

        loaded = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
        _blas = [_getter_and_setter(lib) for lib in loaded if "numpy" in lib.filepath]
        _blas = _blas or [_getter_and_setter(lib) for lib in loaded]
    before = [threads() for threads, _ in _blas]
    try:
        for _, set_threads in _blas:
            set_threads(1)
        yield
    finally:
        for (_, set_threads), threads in zip(_blas, before, strict=True):
            set_threads(threads)


def _getter_and_setter(lib: Any) -> tuple[Callable[[], int], Callable[[int], object]]:
    """Of the number of threads. Where it can be, the library's own: threadpoolctl's take ten times as long."""
    if getattr(lib, "threading_layer", None) == "pthreads":
        for name in getattr(lib, "check_symbols", ()):
            setter = name.replace("openblas_get_", "openblas_set_")
            if (
                "openblas_get_num_threads" in name
                and hasattr(lib.dynlib, name)
                and hasattr(lib.dynlib, setter)
            ):
                return getattr(lib.dynlib, name), getattr(lib.dynlib, setter)

    def set_threads(threads: int) -> None:
        lib.set_num_threads(threads)
        if hasattr(
            lib, "clear_controlling_thread"
        ):  # since 3.8 the first thread to set it keeps it to itself
            lib.clear_controlling_thread()

    return lambda: lib.num_threads, set_threads


def _after_fork() -> None:
    """A child has none of the parent's lanes, and its lock may be held by a thread that does not exist here."""
    global _busy
    _busy = threading.Lock()
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
