"""Timesteps drawn more often where the loss is large, and weighed so that its expectation stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from minidiff.autodiff import stop_gradient
from minidiff.backend import Array, backend_of
from minidiff.random import Generator

__all__ = ["LossSecondMoment"]


class LossSecondMoment:
    """Draws timestep t with a probability proportional to sqrt(E[L_t^2]), the choice of least variance [1]_.

    The expectations are averages over the last losses of each timestep, which `update` tells. Until every timestep
    has a full history, all are drawn alike. It remembers what it was told, so it is for a loop of one's own: what
    `Trainer` calls must depend on its arguments alone.

    Parameters
    ----------
    num_train_timesteps : int
        T.
    history : int
        How many losses of each timestep count.
    uniform : float
        How often a timestep is drawn regardless of its loss, so that none is forgotten.

    References
    ----------
    .. [1] Nichol, Dhariwal, "Improved denoising diffusion probabilistic models", 2021, arXiv:2102.09672,
       section 3.3, eq. 18.

    Examples
    --------
    >>> resampler = LossSecondMoment(3, history=1)
    >>> resampler.update(np.asarray([0, 1, 2]), np.asarray([4.0, 2.0, 2.0]))
    >>> resampler.probabilities.round(2).tolist()
    [0.5, 0.25, 0.25]
    """

    def __init__(self, num_train_timesteps: int, *, history: int = 10, uniform: float = 0.001) -> None:
        if num_train_timesteps < 1 or history < 1 or not 0 <= uniform <= 1:
            raise ValueError(
                "LossSecondMoment: num_train_timesteps and history must be at least 1 and uniform lie in [0, 1], "
                f"got {num_train_timesteps}, {history} and {uniform}"
            )
        self._losses = np.zeros((num_train_timesteps, history))
        self._counts = np.zeros(num_train_timesteps, dtype=np.int64)  # of all losses ever told
        self._uniform = uniform

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """How likely each timestep is drawn, shape (T,)."""
        total, history = self._losses.shape
        moments = np.sqrt(np.mean(self._losses**2, axis=1))
        if self._counts.min() < history or not moments.sum() > 0:
            return np.full(total, 1 / total)
        p: NDArray[np.float64] = moments / moments.sum()
        return (1 - self._uniform) * p + self._uniform / total

    def sample(self, rng: Generator, n: int) -> tuple[Array, Array]:
        """Draw timesteps, and what their losses weigh.

        Parameters
        ----------
        rng : Generator
        n : int

        Returns
        -------
        timesteps : array of int64, shape (n,)
        weights : array of float32, shape (n,)
            1 / (T p_t): the mean of weighted losses has the expectation of a mean over timesteps drawn alike.
        """
        p, xp = self.probabilities, rng.backend.xp
        u = rng.uniform((n,), dtype=xp.float64)
        on = array_api_compat.device(u)
        edges = xp.asarray(np.cumsum(p)[:-1].tolist(), dtype=xp.float64, device=on)
        t = xp.astype(xp.searchsorted(edges, u, side="right"), xp.int64)
        weights = xp.asarray((1 / (len(p) * p)).tolist(), dtype=xp.float32, device=on)
        return t, xp.take(weights, t, axis=0)

    def update(self, timesteps: Array, losses: Any) -> None:
        """Tell the losses, not weighted, of the timesteps of a batch: two arrays (N,). Waits for a GPU.

        Raises
        ------
        ValueError
            If the shapes differ, or a loss is not finite.
        """
        t, values = (_host(x) for x in (timesteps, losses))
        if t.shape != values.shape or t.ndim != 1:
            raise ValueError(f"LossSecondMoment: {t.shape} timesteps for losses of shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"LossSecondMoment: a loss is {values[~np.isfinite(values)][0]}")
        for i, value in zip(t.tolist(), values.tolist(), strict=True):
            self._losses[i, self._counts[i] % self._losses.shape[1]] = value
            self._counts[i] += 1

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """What it remembers, to be saved with a checkpoint."""
        return {"losses": self._losses.copy(), "counts": self._counts.copy()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what `state_dict` saved.

        Raises
        ------
        ValueError
            If it is of another number of timesteps, or of another history.
        """
        losses, counts = np.asarray(state["losses"]), np.asarray(state["counts"])
        if losses.shape != self._losses.shape or counts.shape != self._counts.shape:
            raise ValueError(
                f"LossSecondMoment: expected losses of shape {self._losses.shape}, got {losses.shape}"
            )
        self._losses[...], self._counts[...] = losses, counts


def _host(x: Any) -> NDArray[Any]:
    plain = stop_gradient(x)
    return np.asarray(backend_of(plain).to_numpy(plain))
