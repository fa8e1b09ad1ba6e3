"""scaled_dot_product_attention, a block of scores at a time; the scores of all queries and keys never exist at once.

A block is (..., keys, queries), so that the largest score of a query and their sum are found for many
queries in one go. It spans all keys on the way forward and all queries on the way back, where it is
computed again [1]_: all that is kept of the scores is a number that was taken from those of a query,
and the reciprocal of the sum of their exponentials.

References
----------
.. [1] Dao, Fu, Ermon, Rudra, Ré, "FlashAttention: fast and memory-efficient exact attention with
   IO-awareness", 2022, arXiv:2205.14135.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidiff_numpy import lanes
from minidiff_numpy.blocks import BLOCK, parts
from minidiff_numpy.elementwise import SAFE
from minidiff_numpy.layout import Array, served
from minidiff_numpy.memory import empty_like

_FEW = 1 << 16  # scores
_STRIPE = 128  # queries or keys at a time, where those before or behind them are skipped
_COST = 50  # multiplications that take as long as the softmax of one score


@dataclass(frozen=True)
class Scores:
    """The scores of queries (..., L, E) and keys (..., S, E), masked by a boolean (..., L, S), causal, or neither."""

    q: Array
    k: Array
    scale: float
    mask: Array | None
    causal: bool

    @property
    def skips(self) -> bool:
        """Whether keys behind a query need not be looked at: without a mask a query always has a key left."""
        return self.causal and self.mask is None

    def matrices(self) -> list[Any]:
        """Indices into the leading axes: each of as many matrices of scores as make a block, or of a single one."""
        *lead, length, _ = self.q.shape
        for axis in range(len(lead)):
            size = length * self.k.shape[-2] * math.prod(lead[axis + 1 :])
            step = min(BLOCK // size, math.prod(lead[: axis + 1]) // lanes.count())
            if step:
                return [
                    (*outer, slice(n, n + step))
                    for outer in np.ndindex(*lead[:axis])
                    for n in range(0, lead[axis], step)
                ]
        return list(np.ndindex(*lead))

    def parts(self, length: int, row: int) -> list[slice]:
        """Queries or keys, `length` of them with `row` scores each, in parts enough for every lane."""
        least = -(-lanes.count() // len(self.matrices()))
        return parts(length, row, least=max(least, -(-length // _STRIPE)) if self.skips else least)

    def queries(self, index: Any, rows: slice) -> Array:
        """The scaled queries of a block."""
        scaled: Array = self.q[index][..., rows, :] * self.q.dtype.type(self.scale)
        return scaled

    def block(self, queries: Array, index: Any, keys: slice) -> Array:
        """The scores of some scaled queries, (..., keys, queries), in a lane's buffer."""
        k = self.k[index][..., keys, :]
        scores = lanes.scratch(0, (*k.shape[:-1], queries.shape[-2]), k.dtype)
        return np.matmul(k, queries.swapaxes(-1, -2), out=scores)

    def hide(self, block: Array, value: float, index: Any, keys: slice, rows: slice) -> None:
        """Write `value` into a block where a query must not look."""
        if self.causal:
            first = max(0, rows.start + 1 - keys.start)  # keys before it are behind no query
            last = max(0, min(rows.stop, keys.stop - 1) - rows.start)  # queries from it on are before no key
            corner = block[..., first:, :last]
            height, width = corner.shape[-2:]
            later = np.tri(height, width, k=keys.start + first - rows.start - 1, dtype=bool)
            np.copyto(corner, value, where=later)
        if self.mask is not None:
            np.copyto(block, value, where=~self.mask[index][..., rows, keys].swapaxes(-1, -2))


def _for_blas(x: Array) -> Array:
    """`x`, or a copy if BLAS would not take its matrices as they lie in memory."""
    row, column = x.strides[-2:]
    return x if column == x.itemsize and row >= x.shape[-1] * column else np.ascontiguousarray(x)


def scaled_dot_product_attention(
    xp: Any, q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float | None
) -> Any:
    """See `minidiff.ops.scaled_dot_product_attention`.

    Few scores, leading axes that differ, masks that are not boolean, and half precision are left to the generic rule.
    """
    *lead, length, width = q.shape
    size, out = v.shape[-2:]
    shape = (*lead, length, size)
    if math.prod(shape) < _FEW or not served(q, k, v) or [*k.shape[:-2]] != lead or [*v.shape[:-2]] != lead:
        return NotImplemented
    if mask is not None:
        if mask.dtype != np.bool or np.broadcast_shapes(mask.shape, shape) != shape:
            return NotImplemented
        mask = np.broadcast_to(mask, shape)
    q, k, v = _for_blas(q), _for_blas(k), _for_blas(v)
    s = Scores(q, k, 1 / math.sqrt(width) if scale is None else scale, mask, causal)
    matrices = s.matrices()
    multiplications = math.prod(shape) * (width + out + _COST)
    y = np.empty_like(q, shape=(*lead, length, out))
    shift, share = np.zeros((2, *lead, 1, length), q.dtype)

    def answer(item: tuple[Any, slice]) -> None:
        index, rows = item
        keys = slice(0, min(size, rows.stop) if s.skips else size)
        p = s.block(s.queries(index, rows), index, keys)
        small = p.min() > -SAFE and p.max() < SAFE
        s.hide(p, np.finfo(p.dtype).min, index, keys, rows)
        if mask is not None or not small:
            p -= np.max(p, axis=-2, keepdims=True, out=shift[index][..., rows])
        np.exp(p, out=p)
        weight = share[index][..., rows]
        np.divide(1, np.matmul(np.ones((1, p.shape[-2]), p.dtype), p), out=weight)
        answers = y[index][..., rows, :]
        np.matmul(p.swapaxes(-1, -2), v[index][..., keys, :], out=answers)
        answers *= weight.swapaxes(-1, -2)

    lanes.each(answer, itertools.product(matrices, s.parts(length, size)), multiplications=multiplications)

    def vjp(dy: Array) -> tuple[Array, Array, Array]:
        keys_of = s.parts(size, length)
        runs = min(-(-lanes.count() // len(matrices)), len(keys_of))  # through the keys of one matrix
        dqs = [np.zeros_like(q) for _ in range(runs)]
        dk, dv = empty_like(k), empty_like(v)

        def pull(item: tuple[Any, int]) -> None:
            index, run = item
            queries = s.queries(index, slice(0, length))
            d = dy[index] * share[index].swapaxes(-1, -2)
            mean = np.sum(d * y[index], axis=-1)[..., None, :]
            for keys in keys_of[run::runs]:
                rows = slice(keys.start if s.skips else 0, length)
                p = s.block(queries[..., rows, :], index, keys)
                s.hide(p, np.finfo(p.dtype).min, index, keys, rows)
                if shift[index].any():
                    p -= shift[index][..., rows]
                np.exp(p, out=p)
                np.matmul(p, d[..., rows, :], out=dv[index][..., keys, :])
                slope = lanes.scratch(1, p.shape, p.dtype)
                np.matmul(v[index][..., keys, :], d[..., rows, :].swapaxes(-1, -2), out=slope)
                slope -= mean[..., rows]
                slope *= p
                if (
                    mask is not None
                ):  # a query with no key left looks at all alike, but scores have no part in it
                    s.hide(slope, 0, index, keys, rows)
                np.matmul(slope, queries[..., rows, :], out=dk[index][..., keys, :])
                dq = dqs[run][index][..., rows, :]
                dq += np.matmul(slope.swapaxes(-1, -2), k[index][..., keys, :])
            dqs[run][index] *= s.scale

        lanes.each(pull, itertools.product(matrices, range(runs)), multiplications=2 * multiplications)
        return sum(dqs[1:], dqs[0]), dk, dv

    return y, vjp
