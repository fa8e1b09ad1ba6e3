"""Captured functions on the emulated device: a tape of launches, played again over the same memory.

Nothing runs while a tape is made, and nothing may pass between host and device. Before a tape is played everything
that was allocated for it is poisoned, so that a number which no launch writes again is found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np

from minidiff.backend import Backend, register_backend
from minidiff.random import Generator
from minidiff_cupy import engine
from minidiff_cupy.graphs import compiler
from tests import simt
from tests.simt import emulator, namespace
from tests.simt.arrays import SimtArray, unwrap, wrap

__all__ = ["Tape", "compiling", "normal", "same"]


@contextlib.contextmanager
def compiling(made: list[Tape]) -> Iterator[Backend]:
    """The backend "simt" with a `compile` that captures; tapes are put into `made`."""

    def tape() -> Tape:
        made.append(Tape())
        return made[-1]

    plain = simt.backend()  # its arrays look like NumPy's to `minidiff`, and may come into `from_numpy`
    compile = compiler(namespace, SimtArray, tape, contextlib.nullcontext)
    backend = dataclasses.replace(
        plain,
        from_numpy=lambda x: namespace.asarray(x, copy=True) if engine.capturing() else plain.from_numpy(x),
        to_numpy=_refused_in_capture(plain.to_numpy),
        compile=compile,
    )
    register_backend(backend)
    try:
        yield backend
    finally:
        simt.backend()


class Tape:
    """A recorder of `minidiff_cupy.graphs`."""

    def __init__(self) -> None:
        self.played = 0
        self._steps: list[Callable[[], object]] = []
        self._memory: list[np.ndarray[Any, Any]] = []

    def capture(self, fn: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """See `minidiff_cupy.graphs.Recorder.capture`."""
        with ExitStack() as hooks, np.errstate(all="ignore"):  # numbers are poison now
            for owner, name, new in self._hooks():
                hooks.enter_context(patch.object(owner, name, new, create=True))
            return self._play, fn()

    def _play(self) -> None:
        for x in self._memory:
            namespace._poisoned(x)
        for step in self._steps:
            step()
        self.played += 1

    def _hooks(self) -> Iterator[tuple[Any, str, Any]]:
        launch = emulator._Kernel.__call__
        yield (
            emulator._Kernel,
            "__call__",
            lambda kernel, *args, **options: self._steps.append(
                functools.partial(launch, kernel, *args, **options)
            ),
        )
        yield SimtArray, "__array_ufunc__", self._ufunc
        yield (
            SimtArray,
            "__array_function__",
            lambda x, f, types, inputs, options: self._call(f, *inputs, **options),
        )
        yield SimtArray, "__getitem__", lambda x, key: self._call(operator.getitem, x, key)
        yield (
            SimtArray,
            "__setitem__",
            lambda x, key, value: self._steps.append(
                functools.partial(operator.setitem, unwrap(x), unwrap(key), unwrap(value))
            ),
        )
        for name in ("__bool__", "__float__", "__index__", "__int__", "item", "tolist"):
            yield SimtArray, name, _refuse
        for name, function in list(vars(namespace).items()):
            if name in ("empty", "empty_like"):
                yield namespace, name, functools.partial(self._allocate, function)
            elif hasattr(function, "__wrapped__"):  # one of NumPy's
                yield namespace, name, functools.partial(self._call, function.__wrapped__)
        yield namespace, "asarray", functools.partial(self._asarray, namespace.asarray)

    def _allocate(self, function: Any, *args: Any, **options: Any) -> Any:
        x = function(*args, **options)
        self._memory.append(unwrap(x))
        return x

    def _call(self, function: Any, /, *inputs: Any, **options: Any) -> Any:
        inputs, options = unwrap(inputs), unwrap(options)
        result = wrap(function(*inputs, **options))
        given = [x for x in (*inputs, *options.values()) if isinstance(x, np.ndarray)]
        if isinstance(result, SimtArray) and not any(np.may_share_memory(unwrap(result), x) for x in given):
            self._memory.append(unwrap(result))
            self._steps.append(lambda: np.copyto(unwrap(result), unwrap(wrap(function(*inputs, **options)))))
        return result

    def _ufunc(self, x: Any, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.get("out")
        if out is None:
            return self._call(getattr(ufunc, method), *inputs, **options)
        self._steps.append(functools.partial(getattr(ufunc, method), *unwrap(inputs), **unwrap(options)))
        return out[0]

    def _asarray(self, function: Any, obj: Any, /, **options: Any) -> Any:
        if isinstance(obj, np.ndarray | list | tuple) and not isinstance(obj, SimtArray):
            _refuse()
        return self._call(function, obj, **options)


def _refuse(*args: Any) -> None:
    raise RuntimeError("while launches are captured nothing passes between host and device")


def _refused_in_capture(transfer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: _refuse() if engine.capturing() else transfer(x)


def normal(backend: Backend, seed: int, *shape: int) -> Any:
    """Standard normal numbers on the backend's device."""
    return Generator(seed, backend).normal(shape)


def same(backend: Backend, x: Any, y: Any) -> None:
    """Complain where two arrays differ in a bit."""
    np.testing.assert_array_equal(backend.to_numpy(x), backend.to_numpy(y))
