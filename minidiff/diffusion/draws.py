"""What diffusion draws at random: noise, timesteps, and which labels are forgotten."""

from __future__ import annotations

import array_api_compat

from minidiff import ops
from minidiff.backend import Array, backend_of
from minidiff.ops.support import cast, dtype_name
from minidiff.random import Generator

__all__ = ["drop_labels", "noise_like", "sample_timesteps"]


def noise_like(rng: Generator, x: Array) -> Array:
    """Standard normal noise of the shape and dtype of `x`.

    Raises
    ------
    TypeError
        If `rng` draws on another device than that of `x`.
    """
    backend = backend_of(x)
    if rng.backend.xp is not backend.xp:
        raise TypeError(
            f"the generator draws on {rng.backend.device!r}, but the images are on {backend.device!r}; "
            f"make it with Generator(seed, device={backend.device!r})"
        )
    double = dtype_name(x.dtype) == "float64"
    return cast(backend.xp, rng.normal(x.shape, dtype=backend.xp.float64 if double else None), x)


def sample_timesteps(rng: Generator, n: int, num_train_timesteps: int, *, stratified: bool = False) -> Array:
    """Timesteps from 0 to num_train_timesteps - 1, each as likely as any other (algorithm 1 of [1]_).

    Parameters
    ----------
    rng : Generator
    n : int
        How many.
    num_train_timesteps : int
        T.
    stratified : bool
        Spread them evenly: one random offset, and then every T / n-th timestep, around the end to the start.
        The loss of a batch then varies less from step to step (appendix I.1 of [2]_).

    Returns
    -------
    array of int64, shape (n,)

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    .. [2] Kingma, Salimans, Poole, Ho, "Variational diffusion models", 2021, arXiv:2107.00630.
    """
    total = num_train_timesteps
    if not stratified:
        return rng.integers(0, total, (n,))
    offset = rng.integers(0, n * total, (1,))
    xp = rng.backend.xp
    steps = xp.arange(n, dtype=xp.int64, device=array_api_compat.device(offset)) * total
    return (offset + steps) % (n * total) // n


def drop_labels(rng: Generator, labels: Array, null_label: int, probability: float) -> Array:
    """Replace each label by `null_label` with a probability, for classifier-free guidance [1]_.

    Parameters
    ----------
    rng : Generator
    labels : array of integers, shape (N,)
    null_label : int
        The class that stands for "any".
    probability : float
        From 0 to 1; p_uncond in algorithm 1, 0.1 or 0.2 in its experiments.

    Returns
    -------
    array of integers, shape (N,)

    References
    ----------
    .. [1] Ho, Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"the probability of dropping a label must lie in [0, 1], got {probability}")
    return ops.where(rng.uniform(labels.shape) < probability, null_label, labels)
