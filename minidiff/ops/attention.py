"""Attention."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.support import (
    as_array,
    cast,
    check_floating,
    device,
    dtype_name,
    narrow,
    sum_to,
    widen,
)


def check_attention(q: Array, k: Array, v: Array, mask: Any, *, causal: bool, scale: float | None) -> None:
    """The errors of `scaled_dot_product_attention`."""
    name = "scaled_dot_product_attention"
    check_floating(name, q=q, k=k, v=v)
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(f"{name}: q and k must agree in width, k and v in length ({shapes})")
    if mask is not None and dtype_name(mask.dtype) != "bool":
        check_floating(name, mask=mask)


@op(check=check_attention)
def scaled_dot_product_attention(
    xp: Any, q: Any, k: Any, v: Any, mask: Any = None, *, causal: bool = False, scale: float | None = None
) -> Any:
    r"""Average values by how well their keys answer each query [1]_.

    .. math:: \mathrm{softmax}(s\, q k^T + m)\, v

    Parameters
    ----------
    q : array, shape (..., L, E)
        Queries; the leading axes (batch, heads) broadcast.
    k : array, shape (..., S, E)
        Keys.
    v : array, shape (..., S, V)
        Values.
    mask : array, shape (..., L, S), optional
        Boolean, True where a query may look; or floating, added to the scores.
    causal : bool
        Query i looks at keys 0 to i only.
    scale : float, optional
        s above; 1 / sqrt(E) by default.

    Returns
    -------
    array, shape (..., L, V)

    Raises
    ------
    ValueError
        If the shapes do not fit.
    TypeError
        If the dtypes differ, or `mask` is neither boolean nor floating.

    References
    ----------
    .. [1] Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, equation 1.
    """
    s = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    qw, kw, vw = (widen(xp, a) for a in (q, k, v))
    scores, seen = _masked(xp, xp.matmul(qw * s, xp.matrix_transpose(kw)), mask, causal)
    e = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    p = e / xp.sum(e, axis=-1, keepdims=True)
    y = xp.matmul(p, vw)

    def vjp(dy: Array) -> tuple[Any, ...]:
        dy = widen(xp, dy)
        dp = xp.matmul(dy, xp.matrix_transpose(vw))
        dscores = p * (dp - xp.sum(dp * p, axis=-1, keepdims=True))
        if seen is not None:
            dscores = xp.where(seen, dscores, xp.zeros_like(dscores))
        return (
            lambda: sum_to(xp, xp.matmul(dscores, kw) * s, tuple(q.shape)),
            lambda: sum_to(xp, xp.matmul(xp.matrix_transpose(dscores), qw) * s, tuple(k.shape)),
            lambda: sum_to(xp, xp.matmul(xp.matrix_transpose(p), dy), tuple(v.shape)),
            lambda: sum_to(xp, dscores, tuple(mask.shape)),
        )

    return narrow(xp, y, q), vjp


def _masked(xp: Any, scores: Array, mask: Any, causal: bool) -> tuple[Array, Array | None]:
    """Scores with both masks applied, and which of them still count (None: all).

    A query with no key left looks at all alike.
    """
    seen = None
    if mask is not None and dtype_name(mask.dtype) == "bool":
        seen = mask
    elif mask is not None:
        scores = scores + cast(xp, mask, scores)
    if causal:
        below = xp.tril(xp.ones(scores.shape[-2:], dtype=xp.bool, device=device(scores)))
        seen = below if seen is None else xp.logical_and(below, seen)
    if seen is not None:
        scores = xp.where(seen, scores, as_array(xp, float(xp.finfo(scores.dtype).min), scores))
    return scores, seen
