"""Learning rates: functions of the step, which counts from 0.

Any function from int to float will do; these are the usual ones. A function has no state, so a training run
that resumes needs only its step count.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from typing import TypeAlias

__all__ = ["LearningRate", "constant", "cosine", "warmup", "warmup_cosine"]

LearningRate: TypeAlias = Callable[[int], float]


def constant(base: float) -> LearningRate:
    """`base` at every step."""
    return lambda step: base


def warmup(base: float, steps: int) -> LearningRate:
    """From base / steps at step 0 in a straight line to `base` at step `steps` - 1, where it stays.

    Raises
    ------
    ValueError
        If `steps` is negative. 0 means no warm-up.
    """
    _at_least("warmup", "steps", steps, 0)
    return lambda step: base * min(1.0, (step + 1) / max(steps, 1))


def cosine(base: float, total: int, final: float = 0.0) -> LearningRate:
    """Half a cosine from `base` at step 0 down to `final` at step `total`, where it stays (eq. 5 of [1]_).

    Raises
    ------
    ValueError
        If `total` is less than 1.

    References
    ----------
    .. [1] Loshchilov, Hutter, "SGDR: Stochastic gradient descent with warm restarts", 2017, arXiv:1608.03983.
    """
    _at_least("cosine", "total", total, 1)
    return lambda step: final + (base - final) * (1 + cos(pi * min(1.0, step / total))) / 2


def warmup_cosine(base: float, warmup_steps: int, total: int, final: float = 0.0) -> LearningRate:
    """`warmup` for `warmup_steps`, then `cosine` down to `final` at step `total`.

    Raises
    ------
    ValueError
        If the warm-up does not end before `total`.
    """
    if total <= warmup_steps:
        raise ValueError(f"warmup_cosine: {warmup_steps} warm-up steps do not fit into {total} steps in all")
    up, down = warmup(base, warmup_steps), cosine(base, total - warmup_steps, final)
    return lambda step: up(step) if step < warmup_steps else down(step - warmup_steps)


def _at_least(name: str, what: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: {what} must be at least {least}, got {value}")
