"""Where a noisy image stands: x_t = alpha x_0 + sigma noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["CLEAN", "Point"]


@dataclass(frozen=True)
class Point:
    """How much of an image and how much noise there is, and what the network is told about it.

    Any two numbers will do: alpha^2 + sigma^2 = 1 where the variance is preserved, alpha = 1 where noise is
    added to an untouched image, alpha + sigma = 1 on the straight lines of flow matching.

    Parameters
    ----------
    alpha : float
        What the clean image counts, from 0.
    sigma : float
        What the noise counts, from 0.
    timestep : int or float
        What the network is given as its time; at the clean image, where nobody asks it, -1.

    Examples
    --------
    >>> Point(0.6, 0.8, 500).ratio
    1.3333333333333335
    """

    alpha: float
    sigma: float
    timestep: float = -1

    @property
    def ratio(self) -> float:
        """Sigma / alpha: the noise beside an image of its full size; infinite where nothing is left of it."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def lam(self) -> float:
        """Lambda = log(alpha / sigma), half the logarithm of the signal-to-noise ratio, from -inf to inf."""
        if not self.alpha or not self.sigma:
            return math.inf if self.alpha else -math.inf
        return math.log(self.alpha / self.sigma)

    @property
    def scale(self) -> float:
        """Standard deviation of x_t where images have 1: sqrt(alpha^2 + sigma^2)."""
        return math.hypot(self.alpha, self.sigma)


CLEAN = Point(1.0, 0.0)
