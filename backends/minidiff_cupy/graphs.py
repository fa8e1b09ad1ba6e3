"""`Backend.compile` on CUDA: what a function launches is captured as a graph, and replayed on other numbers.

A launch costs the host about as much time as a small kernel takes; a graph of a thousand launches costs as much as a
few. A graph knows addresses, not arrays. So its arguments are copied into arrays of its own, what it allocates comes
from a pool of its own, in which nothing is freed while the graph exists, and its results are copied out of there.

For each key, which is all that may decide what is launched (shapes, dtypes, orders of memory, constants, precision),
the first call runs the function, so that kernels are compiled and weights prepared; the second captures it. What
cannot be captured (CuPy refuses cuBLAS and every transfer between host and device meanwhile) is run as it is from
then on.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol, TypeAlias

from minidiff.modes import is_exact
from minidiff_cupy import engine
from minidiff_cupy.alike import empty_alike
from minidiff_cupy.copies import copy_all
from minidiff_cupy.memory import Array, memory_order
from minidiff_cupy.placement import arrays_in

__all__ = ["Recorder", "StreamRecorder", "compiler"]

Function: TypeAlias = Callable[..., Any]

_NO_MEMORY = 2  # cudaErrorMemoryAllocation, to which CuPy gives no name

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Who captures launches; one for each graph, which keeps it."""

    def capture(self, fn: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Call `fn` without running its launches: how to run them, and what `fn` returned.

        Any exception means that they cannot be captured.
        """
        ...


class StreamRecorder:
    """Captures by CuPy on a stream of its own, with memory of its own.

    Parameters
    ----------
    cupy : module
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pool = cupy.cuda.MemoryPool(functools.partial(_allocate, cupy))  # no part of a cycle
        emptied = weakref.finalize(self, self._pool.free_all_blocks)  # a pool of CuPy's that goes leaves them
        emptied.atexit = False

    def capture(self, fn: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """See `Recorder.capture`."""
        self._cupy.get_default_memory_pool().free_all_blocks()  # what the first call used is needed here
        with self._stream, self._cupy.cuda.using_allocator(self._pool.malloc):
            self._stream.begin_capture()
            try:
                result = fn()
            except BaseException:
                with suppress(self._cupy.cuda.runtime.CUDARuntimeError):  # the capture may be broken already
                    self._stream.end_capture()
                raise
            graph = self._stream.end_capture()
        return graph.launch, result


def _allocate(cupy: Any, size: int) -> Any:
    """Memory for a graph's pool. CuPy's own function would, where there is none, free what is captured already."""
    cuda = cupy.cuda
    try:
        return cuda.MemoryPointer(cuda.Memory(size), 0)
    except cuda.runtime.CUDARuntimeError as error:
        if error.status != _NO_MEMORY:
            raise
        raise MemoryError(f"{size:,} bytes more for a graph") from error


def compiler(
    xp: Any,
    array_type: type[Any],
    recorder: Callable[[], Recorder],
    guard: Callable[[], AbstractContextManager[None]],
) -> Callable[[Function], Function]:
    """What `Backend.compile` is.

    Parameters
    ----------
    xp : module
    array_type : type
        Of the arrays that functions take and return.
    recorder : callable
        Makes a recorder for each graph.
    guard : callable
        Makes a context in which functions are called.
    """
    return lambda fn: _Compiled(xp, array_type, recorder, guard, fn)


class _Compiled:
    """A function, and a graph for each key that it was called with."""

    def __init__(
        self,
        xp: Any,
        array_type: type[Any],
        recorder: Callable[[], Recorder],
        guard: Callable[[], AbstractContextManager[None]],
        fn: Function,
    ) -> None:
        self._xp, self._array_type, self._recorder, self._guard = xp, array_type, recorder, guard
        self._fn = fn
        self._seen: set[Any] = set()  # keys that it was called with
        self._graphs: dict[Any, _Graph | None] = {}  # by key; None where it cannot be captured

    def __call__(self, *args: Any) -> Any:
        """The results of the function."""
        with self._guard():
            key = _described(args, self._array_type), is_exact()
            if engine.capturing() or key not in self._seen:  # capturing: inside another function
                self._seen.add(key)
                return self._fn(*args)
            if key not in self._graphs:
                self._graphs[key] = self._captured(args)
            graph = self._graphs[key]
            return self._fn(*args) if graph is None else graph(arrays_in(args, self._array_type))

    def _captured(self, args: Any) -> _Graph | None:
        try:
            return _Graph(self._xp, self._array_type, self._recorder(), self._fn, args)
        except Exception as error:
            name = getattr(self._fn, "__qualname__", type(self._fn).__name__)
            _log.warning("%s is not captured as a CUDA graph, so it runs slower: %s", name, error)
            return None


class _Graph:
    """One function, captured for arguments that look like `args`."""

    def __init__(self, xp: Any, array_type: type[Any], recorder: Recorder, fn: Function, args: Any) -> None:
        self._xp, self._array_type = xp, array_type
        self._recorder = recorder  # which holds the memory
        own = _replaced(args, array_type, lambda x: empty_alike(xp, x, x.dtype))
        self._inputs = list(arrays_in(own, array_type))
        with engine.capture():
            self._launch, self._result = recorder.capture(lambda: _checked(fn(*own), array_type))

    def __call__(self, arrays: Iterable[Array]) -> Any:
        copy_all(self._xp, zip(self._inputs, arrays, strict=True))
        self._launch()
        copies: list[tuple[Array, Array]] = []

        def copied(x: Array) -> Array:
            copies.append((empty_alike(self._xp, x, x.dtype), x))
            return copies[-1][0]

        result = _replaced(self._result, self._array_type, copied)
        copy_all(self._xp, copies)
        return result


# --- nested tuples, lists and dicts of arrays ------------------------------------------------------------


def _replaced(x: Any, array_type: type[Any], new: Callable[[Array], Any]) -> Any:
    """The same with other arrays."""
    if isinstance(x, array_type):
        return new(x)
    if isinstance(x, dict):
        return {key: _replaced(child, array_type, new) for key, child in x.items()}
    if isinstance(x, tuple | list):
        return type(x)(_replaced(child, array_type, new) for child in x)
    return x


def _described(x: Any, array_type: type[Any]) -> Any:
    """All of it that may decide what is launched; hashable."""
    if isinstance(x, array_type):
        return tuple(x.shape), x.dtype.name, memory_order(x)
    if isinstance(x, dict):
        return dict, *((key, _described(child, array_type)) for key, child in x.items())
    if isinstance(x, tuple | list):
        return type(x), *(_described(child, array_type) for child in x)
    return type(x), x


def _checked(result: Any, array_type: type[Any]) -> Any:
    """The same, if whoever gets it can do without the function being run."""
    if isinstance(result, dict | tuple | list):
        for child in result.values() if isinstance(result, dict) else result:
            _checked(child, array_type)
    elif result is not None and not isinstance(result, array_type):
        raise TypeError(f"it returns a {type(result).__name__}, and only arrays are new at every replay")
    return result
