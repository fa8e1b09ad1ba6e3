"""The one place that knows who runs a kernel: CuPy on a GPU, or another engine that registered for its arrays.

The tests register an emulator for arrays of theirs, and the same launch code runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

__all__ = ["Engine", "Kernel", "capability", "capture", "capturing", "load", "multiprocessors", "register"]

Kernel: TypeAlias = Callable[..., None]  # kernel(grid, block, args, shared_mem=0)


class Engine(Protocol):
    """Who compiles and runs kernels."""

    def load(self, file: str, name: str, options: tuple[str, ...]) -> Kernel:
        """The kernel `name`, an instance such as "scale<float, 4>", of a file in the folder `kernels`."""
        ...

    def multiprocessors(self) -> int:
        """How many blocks the GPU runs side by side at least."""
        ...

    def capability(self) -> int:
        """Compute capability: 90 for 9.0."""
        ...


_engines: dict[str, Engine] = {}


def register(xp: Any, engine: Engine) -> None:
    """Let `engine` run the kernels on arrays of the namespace `xp`."""
    _engines[xp.__name__] = engine


def load(xp: Any, file: str, name: str, *options: str) -> Kernel:
    """A kernel, compiled the first time that it is asked for on a device.

    Parameters
    ----------
    xp : module
        Array API namespace of the arrays that it will get.
    file : str
        In the folder `kernels`: "normalization.cu".
    name : str
        With its template arguments: "statistics<half, 8>".
    *options : str
        For the compiler: "-DSTAGES=3", "--fmad=false".

    Returns
    -------
    callable
        `kernel(grid, block, args, shared_mem=0)`: tuples of up to three numbers of blocks and of threads; arrays
        of `xp`, None for a null pointer, and NumPy scalars of exactly the parameter's type; bytes of dynamic
        shared memory. It is queued on the current stream of the current device, where the arrays must be.

    Raises
    ------
    RuntimeError
        If it cannot be compiled, with the compiler's log.
    """
    return _engine(xp).load(file, name, options)


def multiprocessors(xp: Any) -> int:
    """How many multiprocessors the current device has."""
    return _engine(xp).multiprocessors()


def capability(xp: Any) -> int:
    """Compute capability of the current device: 90 for 9.0."""
    return _engine(xp).capability()


_capturing: ContextVar[bool] = ContextVar("minidiff_cupy_capturing", default=False)


@contextmanager
def capture() -> Iterator[None]:
    """Say that launches in this context are captured and not yet run; see `minidiff_cupy.graphs`."""
    token = _capturing.set(True)
    try:
        yield
    finally:
        _capturing.reset(token)


def capturing() -> bool:
    """Whether launches are captured, to be replayed with other numbers in the same arrays: nothing can be read back."""
    return _capturing.get()


def _engine(xp: Any) -> Engine:
    engine = _engines.get(xp.__name__)
    if engine is None:
        from minidiff_cupy.gpu import GPU  # imports CuPy

        engine = _engines.setdefault(xp.__name__, GPU())
    return engine
