"""The time of the diffusion process as a vector."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import Parameter, stop_gradient
from minidiff.backend import Array, backend_of
from minidiff.nn import init
from minidiff.nn.module import Module
from minidiff.random import Generator

__all__ = ["FourierFeatures", "timestep_embedding"]


def timestep_embedding(
    timesteps: Any, width: int, *, freq_shift: float = 1, flip_sin_to_cos: bool = False
) -> Array:
    r"""Sines, then cosines, of time at `width / 2` frequencies [1]_.

    .. math:: f_i = 10000^{-i / (w/2 - s)}, \quad e = (\sin(t f_0), \dots, \cos(t f_0), \dots)

    Parameters
    ----------
    timesteps : array, shape (N,)
        Integers or floats, in training steps.
    width : int
        w, even.
    freq_shift : float
        s. With 1 the last frequency is 1/10000, with 0 one step short of it.
    flip_sin_to_cos : bool
        Cosines first.

    Returns
    -------
    array, shape (N, width), float32
        Computed in float64, so that all libraries agree.

    Raises
    ------
    ValueError
        If `width` is odd.

    References
    ----------
    .. [1] Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762, section 3.5.
    """
    if width < 2 or width % 2:
        raise ValueError(f"timestep_embedding: the width must be even, got {width}")
    xp = backend_of(timesteps).xp
    half = width // 2
    t = xp.astype(timesteps, xp.float64)
    i = xp.arange(half, dtype=xp.float64, device=t.device)
    angles = t[:, None] * xp.exp(i * (-math.log(10000) / ((half - freq_shift) or 1)))[None, :]
    waves = (xp.sin(angles), xp.cos(angles))
    return xp.astype(xp.concat(waves[::-1] if flip_sin_to_cos else waves, axis=1), xp.float32)


class FourierFeatures(Module):
    """Sines, then cosines, of the logarithm of a noise level at random frequencies, which are not trained [1]_.

    The frequencies are in the state because a checkpoint must bring them. Their gradient is zero, and an optimizer
    is not given them, as weight decay would shrink them.

    Parameters
    ----------
    width : int
        How many frequencies, normal with mean 0.
    scale : float
        Their standard deviation, in periods per e-fold of the noise level.
    rng : Generator
        Draws the frequencies; its device is where they live.

    References
    ----------
    .. [1] Song et al., "Score-based generative modeling through stochastic differential equations", 2021,
       arXiv:2011.13456, appendix C.2.
    """

    def __init__(self, width: int, *, scale: float = 16.0, rng: Generator) -> None:
        self.weight = Parameter(init.normal(scale)((width,), rng))

    def __call__(self, levels: Any) -> Array:
        """(N,) -> (N, 2 width), float32; computed in float64, so that all libraries agree."""
        xp = backend_of(levels).xp
        frequencies = xp.astype(stop_gradient(self.weight), xp.float64)
        angles = 2 * math.pi * xp.log(xp.astype(levels, xp.float64))[:, None] * frequencies[None, :]
        return xp.astype(xp.concat((xp.sin(angles), xp.cos(angles)), axis=1), xp.float32)
