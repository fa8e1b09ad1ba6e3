"""The loop from noise to images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import array_api_compat

from minidiff.backend import Array, backend_of
from minidiff.diffusion.stepping import Sampler
from minidiff.modes import inference
from minidiff.random import Generator

__all__ = ["sample"]


def sample(
    denoise: Callable[[Array, Array], Any],
    shape: tuple[int, ...],
    sampler: Sampler,
    *,
    steps: int,
    rng: Generator,
    initial: Array = None,
    callback: Callable[[int, int, Array, Array], None] | None = None,
    progress: bool = False,
) -> Array:
    """Draw images, inside `minidiff.inference()`: weights must be neither written to nor replaced meanwhile.

    `denoise` is compiled where the backend does so (`Backend.compile`), and then called for the first steps only: what
    it returns must depend on its arguments alone.

    Parameters
    ----------
    denoise : callable
        `denoise(x, t)`, t being int64 (N,) on the device of x: a model, or `classifier_free_guidance` of one.
        What its output means is the sampler's `prediction_type`.
    shape : tuple of int
        (N, C, H, W).
    sampler : Sampler
    steps : int
        How many timesteps are visited, 1 to `sampler.num_train_timesteps`.
    rng : Generator
        Draws all noise, and decides the device.
    initial : array, shape (N, C, H, W), optional
        Noise to begin with; by default drawn from `rng`, float32.
    callback : callable, optional
        Called after each step as `callback(step_index, t, x, x0)`, with the image after the step and the
        clean image as predicted in it.
    progress : bool
        Show a bar.

    Returns
    -------
    array, shape (N, C, H, W)

    Examples
    --------
    >>> from minidiff.diffusion import DDIM
    >>> images = sample(lambda x, t: 0 * x, (2, 1, 8, 8), DDIM(), steps=5, rng=Generator(0))
    >>> images.shape
    (2, 1, 8, 8)
    """
    sampler.set_timesteps(steps)
    x = rng.normal(shape) * sampler.init_noise_sigma if initial is None else initial
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"sample: initial has shape {tuple(x.shape)}, expected {tuple(shape)}")
    with inference():
        predict = backend_of(x).compile(denoise)
        for i, t in enumerate(_shown(sampler.timesteps) if progress else sampler.timesteps):
            output = predict(sampler.scale_model_input(x, t), _filled(x, t))
            step = sampler.step(output, t, x, rng=rng)
            x = step.prev_sample
            if callback is not None:
                callback(i, t, x, step.pred_original_sample)
    return x


def _filled(x: Array, t: int) -> Array:
    xp = backend_of(x).xp
    return xp.full((x.shape[0],), t, dtype=xp.int64, device=array_api_compat.device(x))


def _shown(timesteps: list[int]) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(
        timesteps, desc="sampling", unit="step", leave=False, disable=None
    )  # None: only on a terminal
