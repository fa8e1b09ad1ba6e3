"""Which of several GPUs does the work: the one where the arrays are, whichever is current.

CuPy allocates and computes on the current device of the thread, wherever its operands are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["arrays_in", "placed"]


def placed(cupy: Any, number: int | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` run on the device of the first array that it gets.

    Functions among its results, such as the pullback of a rule, are placed in the same way.

    Parameters
    ----------
    cupy : module
    number : int or None
        The device to use when it gets no array; None is the current one.
    function : callable
        Arrays may stand in tuples, lists and dicts among its positional arguments.
    """

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        first = next(arrays_in(args, cupy.ndarray), None)
        device = cupy.cuda.Device(number if first is None else first.device.id)
        with device:
            result = function(*args, **options)
        if isinstance(result, tuple | list) and any(map(callable, result)):
            return tuple(placed(cupy, device.id, x) if callable(x) else x for x in result)
        return result

    return run


def arrays_in(x: Any, array_type: type[Any]) -> Iterator[Any]:
    """The arrays in nested tuples, lists and dicts, in a fixed order."""
    if isinstance(x, array_type):
        yield x
    elif isinstance(x, tuple | list | dict):
        for child in x.values() if isinstance(x, dict) else x:
            yield from arrays_in(child, array_type)
