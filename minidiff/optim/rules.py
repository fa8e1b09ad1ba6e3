"""One step of each optimizer, and what clipping needs, as functions of plain arrays.

These are the law. A backend may hold a faster function of the same name and signature among its kernels,
which may return NotImplemented for what it does not serve. It returns a new array for the parameter, whose old
one somebody may hold; the moments and averages that it is given are the optimizer's alone, and may be written
in place. One of the name with "_all" behind it does the same for all parameters at once: it gets and returns
rows, `adam_all(xp, [(p, g, m, v), ...], lr=..., ...) -> [(p, m, v), ...]`.

States are float32, or float64 for float64 parameters. What is computed for a half precision parameter is
computed in float32 and rounded once.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from minidiff.backend import Array, backend_of
from minidiff.ops.support import cast, widen

__all__ = ["adam", "clip_all", "ema", "momentum", "run", "run_all", "sgd", "square_sum"]


def sgd(xp: Any, p: Array, g: Array, *, lr: float, weight_decay: float, step: int) -> tuple[Array]:
    """Gradient descent: p - lr g. Weight decay adds weight_decay p to g."""
    w, g = widen(xp, p), widen(xp, g)
    if weight_decay:
        g = g + weight_decay * w
    return (cast(xp, w - lr * g, p),)


def momentum(
    xp: Any,
    p: Array,
    g: Array,
    b: Array,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    step: int,
) -> tuple[Array, Array]:
    """Gradient descent with momentum b: b' = momentum b + g, p' = p - lr b' [1]_.

    With Nesterov's momentum, p' = p - lr (g + momentum b'). Weight decay adds weight_decay p to g.

    References
    ----------
    .. [1] Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep
       learning", ICML 2013, eq. 1 to 4; written as in PyTorch, with the learning rate outside b.
    """
    w, g = cast(xp, p, b), cast(xp, g, b)
    if weight_decay:
        g = g + weight_decay * w
    b = momentum * b + g
    return cast(xp, w - lr * (g + momentum * b if nesterov else b), p), b


def adam(
    xp: Any,
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> tuple[Array, Array, Array]:
    """Adam (algorithm 1 of [1]_), with decoupled weight decay (algorithm 2 of [2]_).

    Parameters
    ----------
    p, g, m, v : array, one shape
        Parameter, gradient, and the averages of g and g^2.
    step : int
        Counts from 1.

    Returns
    -------
    p, m, v : array

    References
    ----------
    .. [1] Kingma, Ba, "Adam: A method for stochastic optimization", 2015, arXiv:1412.6980.
    .. [2] Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, arXiv:1711.05101.
    """
    w, g = cast(xp, p, m), cast(xp, g, m)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    m_scale, v_scale = 1 / (1 - beta1**step), (1 - beta2**step) ** -0.5
    d = (m * m_scale) / (xp.sqrt(v) * v_scale + eps)
    if weight_decay:
        d = d + weight_decay * w
    return cast(xp, w - lr * d, p), m, v


def ema(xp: Any, average: Array, p: Array, *, decay: float) -> tuple[Array]:
    """The average moves by 1 - decay of the way to p: decay * average + (1 - decay) * p."""
    return (average + (1 - decay) * (cast(xp, p, average) - average),)


def square_sum(xp: Any, *arrays: Array) -> tuple[Array]:
    """The sum of the squares of all numbers in `arrays`, float32 or wider, shape ()."""
    squares = (xp.sum(g * g) for g in (widen(xp, x) for x in arrays))
    return (functools.reduce(operator.add, squares),)


def clip_all(xp: Any, gradients: Sequence[Array], *, max_norm: float) -> tuple[Array, Sequence[Array]]:
    """The `square_sum` of all gradients, and the gradients scaled so that its root is at most `max_norm`.

    A sum that is not finite scales nothing. This rule waits for a GPU; a kernel need not.
    """
    (squares,) = run(square_sum, *gradients)
    norm = math.sqrt(float(squares))
    if not max_norm < norm < math.inf:
        return squares, gradients
    return squares, [backend_of(g).xp.asarray(g * (max_norm / norm)) for g in gradients]


def run_all(rule: Callable[..., Any], rows: Sequence[tuple[Array, ...]], **options: Any) -> Any:
    """The results of `run` for each row, at once if the backend has a kernel for that."""
    backend = backend_of(rows[0][0])
    kernel = backend.kernels.get(f"{rule.__name__}_all")
    together = kernel and all(backend_of(row[0]) is backend for row in rows)
    result = kernel(backend.xp, rows, **options) if kernel and together else NotImplemented
    return [run(rule, *row, **options) for row in rows] if result is NotImplemented else result


def run(rule: Callable[..., Any], *arrays: Array, **options: Any) -> tuple[Array, ...]:
    """The backend's kernel of the rule's name, or the rule."""
    backend = backend_of(arrays[0])
    kernel = backend.kernels.get(rule.__name__)
    result = kernel(backend.xp, *arrays, **options) if kernel else NotImplemented
    if result is NotImplemented:
        result = rule(backend.xp, *arrays, **options)
    return tuple(map(backend.xp.asarray, result))  # NumPy's operators turn arrays of shape () into scalars
