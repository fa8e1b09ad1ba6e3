"""scaled_dot_product_attention, forward and backward without the matrix of scores in memory.

Remembered are the inputs, the result, and two numbers of each query. Gradients are computed in two passes that share
nothing, so that one nobody asks for is not computed: one for the queries, one for keys and values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minidiff.modes import is_exact
from minidiff_cupy import engine
from minidiff_cupy.memory import (
    VECTOR_BYTES,
    Array,
    address,
    empty_in_order,
    memory_order,
    served,
    type_of,
)

__all__ = ["WIDTHS", "Variant", "scaled_dot_product_attention", "variant_for"]

WIDTHS = (16, 32, 64, 128)  # of heads; the next larger one serves
_TILES = ((64, 64), (64, 32), (32, 32), (32, 16), (16, 16))  # rows of a block, and of a tile; the best first
_SHARED_BYTES = {True: 72 << 10, False: 64 << 10}  # to be used from sm_80 on, and there is before
_MOST_ROWS = 2**31 - 64
_ROW_PRODUCTS = 8  # of a block

_STRIDES = np.dtype([(axis, np.int64) for axis in ("outer", "head", "row", "column")])
_ARRAYS = ("q", "k", "v", "mask", "y", "dy", "dq", "dk", "dv")
_PROBLEM = np.dtype(
    [("all_queries", np.int64)]
    + [(name, np.int32) for name in ("heads", "queries", "keys", "width", "value_width")]
    + [("scale", np.float32), ("causal", np.int32), ("in_pieces", np.int32)]
    + [(name, _STRIDES) for name in _ARRAYS],
    align=True,
)


def scaled_dot_product_attention(
    xp: Any, q: Any, k: Any, v: Any, mask: Any, *, causal: bool, scale: float | None
) -> Any:
    """See `minidiff.ops.scaled_dot_product_attention`.

    Heads wider than 128, more than two leading axes, leading axes that differ, masks that are not boolean, and empty
    arrays are left to the generic rule.
    """
    scores = (*q.shape[:-1], k.shape[-2])
    if not _possible(q, k, v, mask, scores):
        return NotImplemented
    q, k, v = (_with_dense_rows(xp, x) for x in (q, k, v))
    if mask is not None:
        mask = xp.broadcast_to(mask, scores)
    s = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    width = max(q.shape[-1], v.shape[-1])
    variant = variant_for(type_of(q), width, engine.capability(xp), is_exact())
    attention = _Attention(xp, q, k, v, mask, causal, s, variant)
    y, known = attention.answer()

    def vjp(dy: Array) -> tuple[Any, Any, Any]:
        pulled = _Pulled(attention, y, known, _with_dense_rows(xp, dy))
        return (lambda: pulled.of_queries, lambda: pulled.of_keys[0], lambda: pulled.of_keys[1])

    return y, vjp


def _possible(q: Array, k: Array, v: Array, mask: Any, scores: tuple[int, ...]) -> bool:
    if not served(q, k, v) or q.ndim > 4 or 0 in (q.size, k.size, v.size):
        return False
    if k.shape[:-2] != q.shape[:-2] or v.shape[:-2] != q.shape[:-2]:
        return False
    if max(q.shape[-1], v.shape[-1]) > WIDTHS[-1] or max(scores[-2:]) > _MOST_ROWS:
        return False
    return mask is None or (mask.dtype == np.bool_ and np.broadcast_shapes(mask.shape, scores) == scores)


@dataclass(frozen=True)
class Variant:
    """Template arguments of a kernel.

    Attributes
    ----------
    number : str
        CUDA type of the elements.
    exact : bool
        Multiply in float32, not on tensor cores.
    width : int
        Numbers in a row, with zeros behind.
    rows, tile : int
        Of a block, and of the other side at a time.
    """

    number: str
    exact: bool
    width: int
    rows: int
    tile: int

    def __str__(self) -> str:
        return f"<{self.number}, {str(self.exact).lower()}, {self.width}, {self.rows}, {self.tile}>"

    def shared_bytes(self, own: int = 2) -> int:
        """Of a block that owns rows of so many matrices: two of two tiles beside them, and numbers of queries."""
        line = self.width * (4 if self.number == "float" else 2) + VECTOR_BYTES
        return (own * self.rows + 4 * self.tile) * line + 2 * 3 * self.tile * 4


def variant_for(number: str, width: int, capability: int, exact: bool) -> Variant:
    """What serves rows of `width` numbers; tensor cores take float and bfloat16 from sm_80 on."""
    modern = capability >= 80
    exact = (exact and number == "float") or (not modern and number != "half")
    width = next(w for w in WIDTHS if w >= width)
    variants = (Variant(number, exact, width, *tiles) for tiles in (_TILES[1:] if exact else _TILES))
    return next(v for v in variants if v.shared_bytes() <= _SHARED_BYTES[modern])


@dataclass(frozen=True)
class _Attention:
    """Arrays whose rows have no gaps, and the kernels' variant for them."""

    xp: Any
    q: Array
    k: Array
    v: Array
    mask: Array | None
    causal: bool
    scale: float
    variant: Variant

    def answer(self) -> tuple[Array, Array]:
        """The result; and (3, ..., L), three numbers of each query, of which only gradients need the last."""
        y = _empty_beside(self.xp, self.q, self.v.shape[-1])
        known = self.xp.empty((3, *self.q.shape[:-1]), dtype=self.xp.float32)
        self.launch("answer", 1, self.q.shape[-2], (self.q, self.k, self.v, self.mask, y, known), y=y)
        return y, known

    def launch(self, name: str, own: int, rows: int, arguments: tuple[Any, ...], **arrays: Array) -> None:
        """Launch a kernel whose blocks share out `rows` rows of `own` matrices; `arrays` are those beside ours."""
        of_block, shared = self.variant.rows, self.variant.shared_bytes(own)
        grid = math.prod(self.q.shape[:-2]) * -(-rows // of_block)
        kernel = engine.load(self.xp, "attention.cu", f"{name}{self.variant}")
        kernel((grid,), (2 * of_block,), (*arguments, self.problem(**arrays)), shared_mem=shared)

    def problem(self, **arrays: Array) -> Any:
        """The struct of the same name in attention.cu."""
        problem = np.zeros((), _PROBLEM)
        everything = {"q": self.q, "k": self.k, "v": self.v, "mask": self.mask, **arrays}
        problem["all_queries"] = math.prod(self.q.shape[:-1])
        problem["heads"] = self.q.shape[-3] if self.q.ndim > 2 else 1
        problem["queries"], problem["width"] = self.q.shape[-2:]
        problem["keys"], problem["value_width"] = self.v.shape[-2:]
        problem["scale"], problem["causal"] = self.scale, self.causal
        read = (self.q, self.k, self.v, arrays.get("dy", self.v))
        problem["in_pieces"] = all(map(_in_pieces, read))
        for name, x in everything.items():
            if x is not None:
                strides = [0] * (4 - x.ndim) + [n // x.itemsize for n in x.strides]
                problem[name] = tuple(strides)
        return problem[()]


class _Pulled:
    """Gradients, each computed when it is first asked for."""

    def __init__(self, attention: _Attention, y: Array, known: Array, dy: Array) -> None:
        self._attention = attention
        self._y, self._dy, self._known = y, dy, known

    @cached_property
    def of_queries(self) -> Array:
        """Like q."""
        a = self._attention
        dq = _empty_beside(a.xp, a.q, a.q.shape[-1])
        a.launch("pull_queries", 2, a.q.shape[-2], (*self._arguments, dq), dy=self._dy, dq=dq)
        return dq

    @cached_property
    def of_keys(self) -> tuple[Array, Array]:
        """Like k and v."""
        a = self._attention
        dk, dv = (_empty_beside(a.xp, x, x.shape[-1]) for x in (a.k, a.v))
        a.launch("pull_keys", 2, a.k.shape[-2], (*self._arguments, dk, dv), dy=self._dy, dk=dk, dv=dv)
        return dk, dv

    @cached_property
    def _arguments(self) -> tuple[Any, ...]:
        a = self._attention
        kernel = engine.load(a.xp, "attention.cu", f"row_products<{type_of(a.q)}>")
        blocks = -(-self._known.size // 3 // _ROW_PRODUCTS)
        arguments = (self._known, self._y, self._dy, a.problem(y=self._y, dy=self._dy))
        kernel((blocks,), (32 * _ROW_PRODUCTS,), arguments)
        return a.q, a.k, a.v, a.mask, self._dy, self._known


def _with_dense_rows(xp: Any, x: Array) -> Array:
    """`x`, or a copy if the numbers of a row are not neighbours."""
    return x if x.strides[-1] == x.itemsize or x.shape[-1] == 1 else xp.ascontiguousarray(x)


def _in_pieces(x: Array) -> bool:
    """Whether every row can be read 16 bytes at a time."""
    sizes = (address(x), x.shape[-1] * x.itemsize, *x.strides[:-1])
    return all(size % VECTOR_BYTES == 0 for size in sizes)


def _empty_beside(xp: Any, x: Array, width: int) -> Array:
    """(..., width) with the axes before the last in the order in which `x` has them in memory."""
    last = x.ndim - 1
    order = (*(axis for axis in memory_order(x) if axis != last), last)
    return empty_in_order(xp, (*x.shape[:-1], width), order, x.dtype)
