"""Attention."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.support import as_array, cast, check_floating, sum_to, widen


@op
def scaled_dot_product_attention(
    xp: Any, q: Any, k: Any, v: Any, *, mask: Any = None, causal: bool = False, scale: float | None = None
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

    References
    ----------
    .. [1] Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, equation 1.
    """
    check_floating("scaled_dot_product_attention", q=q, k=k, v=v)
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        raise ValueError(f"scaled_dot_product_attention: q and k must agree in width, k and v in length ({shapes})")
    s = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    qw, kw, vw = (widen(xp, a) for a in (q, k, v))
    scores = _masked(xp, xp.matmul(qw * s, xp.matrix_transpose(kw)), mask, causal)
    e = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    p = e / xp.sum(e, axis=-1, keepdims=True)
    y = xp.matmul(p, vw)

    def vjp(dy: Array) -> tuple[Any, ...]:
        dy = widen(xp, dy)
        dp = xp.matmul(dy, xp.matrix_transpose(vw))
        dscores = p * (dp - xp.sum(dp * p, axis=-1, keepdims=True)) * s
        return (
            lambda: cast(xp, sum_to(xp, xp.matmul(dscores, kw), q), q),
            lambda: cast(xp, sum_to(xp, xp.matmul(xp.matrix_transpose(dscores), qw), k), k),
            lambda: cast(xp, sum_to(xp, xp.matmul(xp.matrix_transpose(p), dy), v), v),
        )

    return cast(xp, y, q), vjp


def _masked(xp: Any, scores: Array, mask: Any, causal: bool) -> Array:
    """Scores with `mask` and the causal mask applied; a query with no key left looks at all alike."""
    length, count = scores.shape[-2:]
    lowest = as_array(xp, float(xp.finfo(scores.dtype).min), scores)
    if mask is not None and xp.isdtype(mask.dtype, "bool"):
        scores = xp.where(mask, scores, lowest)
    elif mask is not None:
        scores = scores + cast(xp, mask, scores)
    if causal:
        seen = xp.tril(xp.ones((length, count), dtype=xp.bool, device=scores.device))
        scores = xp.where(seen, scores, lowest)
    return scores
