"""The loop from noise to images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import array_api_compat

from minidiff.backend import Array, backend_of
from minidiff.diffusion.samplers import Sampler
from minidiff.modes import inference
from minidiff.random import Generator

__all__ = ["Callback", "follow", "sample", "shown"]

Callback: TypeAlias = Callable[[int, float, Array, Array], None]  # (step_index, t, x, x0)


def sample(
    denoise: Callable[[Array, Array], Any],
    shape: tuple[int, ...],
    sampler: Sampler,
    *,
    steps: int,
    rng: Generator,
    initial: Array = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Array:
    """Draw images, inside `minidiff.inference()`: weights must be neither written to nor replaced meanwhile.

    `denoise` is compiled where the backend does so (`Backend.compile`), and then called for the first steps only: what
    it returns must depend on its arguments alone.

    Parameters
    ----------
    denoise : callable
        `denoise(x, t)`, t being (N,) on the device of x, int64, or float32 where timesteps are not integers: a model,
        or `classifier_free_guidance` of one.
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
        return follow(lambda _: predict, x, sampler, rng=rng, callback=callback, progress=progress)


def follow(
    predict_at: Callable[[int], Callable[[Array, Array], Any]],
    x: Array,
    sampler: Sampler,
    *,
    rng: Generator,
    begin: int = 0,
    end: int | None = None,
    after: Callable[[int, Array], Array] | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Array:
    """The loop itself: from `sampler.points[begin]` to `sampler.points[end]`, after `sampler.set_timesteps`.

    Parameters
    ----------
    predict_at : callable
        `predict_at(i)(x, t)` is what the network says at `sampler.timesteps[i]`.
    x : array, shape (N, C, H, W)
        At the point `begin`.
    sampler : Sampler
    rng : Generator
        Draws the noise that steps add.
    begin, end : int
        Numbers of points; by default the first and the last.
    after : callable, optional
        `after(i, x)` is taken in place of the x that arrived at point i.
    callback, progress
        See `sample`.

    Returns
    -------
    array, shape (N, C, H, W)
        At the point `end`.
    """
    end = len(sampler.timesteps) if end is None else end
    sampler.set_begin_index(begin)
    indices: Iterable[int] = range(begin, end)
    for i in shown(indices, end - begin) if progress else indices:
        t = sampler.timesteps[i]
        output = predict_at(i)(sampler.scale_model_input(x, t), _filled(x, t))
        step = sampler.step(output, t, x, rng=rng)
        x = step.prev_sample if after is None else after(i + 1, step.prev_sample)
        if callback is not None:
            callback(i, t, x, step.pred_original_sample)
    return x


def _filled(x: Array, t: float) -> Array:
    """The time of every image, (N,): int64, or float32 where t is no whole timestep."""
    xp = backend_of(x).xp
    dtype = xp.int64 if isinstance(t, int) else xp.float32
    return xp.full((x.shape[0],), t, dtype=dtype, device=array_api_compat.device(x))


def shown(steps: Iterable[int], total: int) -> Iterable[int]:
    """A bar over steps, on a terminal."""
    from tqdm import tqdm

    # disable=None: only on a terminal
    return tqdm(steps, desc="sampling", total=total, unit="step", leave=False, disable=None)
