"""The rules of `minidiff.optim.rules`, for all parameters in few launches.

A rule and its kernel for all, `adam` and `adam_all`, are one: a launch takes a table of rows, and a row is a parameter
with what belongs to it. What is computed together must lie alike in memory: new parameters and moments lie as the
gradient does, averages as the parameter does. Arrays that lie otherwise are copied, which for parameters and moments
happens in the first step. Moments and averages are written in place. Results are those of the generic rules, bit for
bit; only sums of squares are rounded otherwise.

Nothing here waits for the device. A table holds addresses and travels with the launch, so that a captured launch
goes on working with the arrays that it was captured with; a parameter may then be its own new parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from minidiff_cupy import engine
from minidiff_cupy.alike import alike, dense, empty_alike
from minidiff_cupy.memory import TYPES, Array, address, served, type_of

__all__ = [
    "adam",
    "adam_all",
    "clip_all",
    "ema",
    "ema_all",
    "momentum",
    "momentum_all",
    "sgd",
    "sgd_all",
    "square_sum",
]

Row: TypeAlias = tuple[Array, ...]

_ROWS, _COLUMNS, _CHUNK, _THREADS = 64, 5, 4096, 256  # as in optimizer.cu
_TABLE = np.dtype(
    [("address", np.uint64, (_COLUMNS, _ROWS)), ("size", np.int64, _ROWS), ("first_block", np.int32, _ROWS)]
)


def sgd_all(xp: Any, rows: Sequence[Row], *, lr: float, weight_decay: float, step: int) -> Any:
    """See `minidiff.optim.rules.sgd`; rows of (p, g) become rows of (p,)."""
    return _step(xp, "sgd", rows, (lr, weight_decay))


def momentum_all(
    xp: Any,
    rows: Sequence[Row],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    step: int,
) -> Any:
    """See `minidiff.optim.rules.momentum`; rows of (p, g, b) become rows of (p, b)."""
    return _step(xp, "momentum", rows, (lr, weight_decay, momentum, nesterov))


def adam_all(
    xp: Any,
    rows: Sequence[Row],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> Any:
    """See `minidiff.optim.rules.adam`; rows of (p, g, m, v) become rows of (p, m, v)."""
    m_scale, v_scale = 1 / (1 - beta1**step), (1 - beta2**step) ** -0.5
    options = (lr, weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, m_scale, v_scale, eps)
    return _step(xp, "adam", rows, options)


def ema_all(xp: Any, rows: Sequence[Row], *, decay: float) -> Any:
    """See `minidiff.optim.rules.ema`; rows of (average, p) become rows of (average,)."""
    if not all(served(p) and _are_float32(average) for average, p in rows):
        return NotImplemented
    table = []
    for average, p in rows:
        p = dense(xp, p)
        table.append((alike(xp, average, p), p))
    _launch(xp, "ema", table, 1, (np.float32(1 - decay),))
    return [row[:1] for row in table]


def square_sum(xp: Any, *arrays: Array) -> Any:
    """See `minidiff.optim.rules.square_sum`: float64, added up in float64, always in the same order."""
    if not all(map(served, arrays)):
        return NotImplemented
    return (_square_sum(xp, [(dense(xp, x),) for x in arrays]),)


def clip_all(xp: Any, gradients: Sequence[Array], *, max_norm: float) -> Any:
    """The sum of all squares, float64 (), and the gradients scaled so that its root is at most `max_norm`.

    A sum that is not finite scales nothing.
    """
    if not all(map(served, gradients)):
        return NotImplemented
    table = []
    for g in gradients:
        g = dense(xp, g)
        table.append((g, empty_alike(xp, g, g.dtype)))
    squares = _square_sum(xp, table)
    _launch(xp, "clip", table, 0, (squares, np.float64(max_norm)))
    return squares, [new for _, new in table]


def sgd(xp: Any, *row: Array, **options: Any) -> Any:
    """`sgd_all` of one row."""
    return _only(sgd_all(xp, [row], **options))


def momentum(xp: Any, *row: Array, **options: Any) -> Any:
    """`momentum_all` of one row."""
    return _only(momentum_all(xp, [row], **options))


def adam(xp: Any, *row: Array, **options: Any) -> Any:
    """`adam_all` of one row."""
    return _only(adam_all(xp, [row], **options))


def ema(xp: Any, *row: Array, **options: Any) -> Any:
    """`ema_all` of one row."""
    return _only(ema_all(xp, [row], **options))


def _only(rows: Any) -> Any:
    return rows if rows is NotImplemented else rows[0]


def _step(xp: Any, name: str, rows: Sequence[Row], options: tuple[float, ...]) -> Any:
    """Launch a rule of parameters, gradients and states; rows of new parameters and states."""
    if not all(served(p, g) and _are_float32(*states) for p, g, *states in rows):
        return NotImplemented
    table = []
    for p, g, *states in rows:
        g = dense(xp, g)
        new = empty_alike(xp, g, g.dtype)
        table.append((alike(xp, p, g), g, new, *(alike(xp, s, g) for s in states)))
    scalars = tuple(np.bool_(x) if isinstance(x, bool) else np.float32(x) for x in options)
    _launch(xp, name, table, 0, scalars)
    return [row[2:] for row in table]


def _are_float32(*arrays: Array) -> bool:
    return all(x.dtype.name == "float32" for x in arrays)


def _square_sum(xp: Any, table: Sequence[Row]) -> Array:
    launches = list(_launches(table, 0))
    blocks = sum(count for _, _, count in launches)
    partial = xp.empty(blocks, dtype=xp.float64)
    first = 0
    for number, rows, count in launches:
        kernel = _kernel(xp, f"square_sum<{number}>")
        kernel((count,), (_THREADS,), (rows, partial[first : first + count]))
        first += count
    total = xp.empty((), dtype=xp.float64)
    kernel = _kernel(xp, "sum_of_partials")
    kernel((1,), (_THREADS,), (total, partial, np.int32(blocks)))
    return total


def _launch(xp: Any, name: str, table: Sequence[Row], column: int, scalars: tuple[Any, ...]) -> None:
    """Launch a kernel for all rows of a table; the dtype of `column` decides which."""
    for number, rows, blocks in _launches(table, column):
        _kernel(xp, f"{name}<{number}>")((blocks,), (_THREADS,), (rows, *scalars))


def _kernel(xp: Any, name: str) -> engine.Kernel:
    return engine.load(xp, "optimizer.cu", name, "--fmad=false")


def _launches(table: Sequence[Row], column: int) -> Iterable[tuple[str, Any, int]]:
    """Number type, table as the kernel takes it, and blocks of each launch."""
    for number in TYPES.values():
        rows = [row for row in table if type_of(row[column]) == number and row[column].size]
        for first in range(0, len(rows), _ROWS):
            yield number, *_packed(rows[first : first + _ROWS])


def _packed(rows: Sequence[Row]) -> tuple[Any, int]:
    packed = np.zeros((), _TABLE)
    blocks = 0
    for i, row in enumerate(rows):
        packed["address"][: len(row), i] = [address(x) for x in row]
        packed["size"][i] = row[0].size
        packed["first_block"][i] = blocks
        blocks += -(-row[0].size // _CHUNK)
    packed["first_block"][len(rows) :] = blocks
    return packed[()], blocks
