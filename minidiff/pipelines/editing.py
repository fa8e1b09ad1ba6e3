"""Images out of images: changed as a whole, or only where a mask says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack

from minidiff import ops
from minidiff.backend import Array, backend_of
from minidiff.diffusion import Sampler
from minidiff.diffusion.points import Point
from minidiff.diffusion.sampling import shown
from minidiff.pipelines.drawing import Batch, Options, draw, on_device, pictures
from minidiff.pipelines.pipeline import Pipeline
from minidiff.random import Generator

__all__ = ["image_to_image", "inpaint", "repaint"]


def image_to_image(
    pipeline: Pipeline,
    images: Array,
    *,
    strength: float = 0.8,
    generator: Generator | Sequence[Generator],
    **options: Unpack[Options],
) -> Array:
    """Add noise to images, and draw from there: new ones of the same large shapes [1]_.

    Parameters
    ----------
    pipeline : Pipeline
    images : array, shape (N, C, H, W)
        In [-1, 1], of any array library.
    strength : float
        Above 0 and up to 1: which part of the steps is taken. 1 leaves little of the images.
    generator : Generator, or a sequence of N
    **options
        See `generate`.

    Returns
    -------
    array, shape (N, C, H, W)
        In [-1, 1].

    References
    ----------
    .. [1] Meng et al., "SDEdit: guided image synthesis and editing with stochastic differential equations", 2021,
       arXiv:2108.01073.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"image_to_image: strength must be above 0 and at most 1, got {strength}")
    clean = pictures(images, generator, pipeline.image_shape)

    def run(batch: Batch) -> Array:
        starts = batch.sampler.starts
        taken = max(1, int(len(starts) * strength))
        begin = starts[len(starts) - taken]
        x = _noised(batch.sampler.points[begin], clean[batch.part, ...], batch.noise())
        return batch.follow(x, begin=begin)

    return draw(pipeline, clean.shape[0], generator, run, **options)


def inpaint(
    pipeline: Pipeline,
    images: Array,
    masks: Array,
    *,
    generator: Generator | Sequence[Generator],
    **options: Unpack[Options],
) -> Array:
    """Draw what a mask hides, and put back what it does not, as noisy as the image is, after every step [1]_.

    Parameters
    ----------
    pipeline : Pipeline
    images : array, shape (N, C, H, W)
        In [-1, 1], of any array library.
    masks : array, shape (N, 1, H, W) or (1, 1, H, W)
        1 where something new is drawn, 0 where the image stays; fractions blend.
    generator : Generator, or a sequence of N
    **options
        See `generate`.

    Returns
    -------
    array, shape (N, C, H, W)
        In [-1, 1]; where the mask is 0, `images`.

    References
    ----------
    .. [1] Song et al., "Score-based generative modeling through stochastic differential equations", 2021,
       arXiv:2011.13456, appendix I.2.
    """
    clean, mask = _image_and_mask(pipeline, images, masks, generator)

    def run(batch: Batch) -> Array:
        noise, known, hidden = batch.noise(), clean[batch.part, ...], mask[batch.part, ...]
        kept = _kept(batch.sampler, known, hidden, lambda: noise)
        return batch.follow(noise * batch.sampler.init_noise_sigma, after=kept)

    return draw(pipeline, clean.shape[0], generator, run, **options)


def repaint(
    pipeline: Pipeline,
    images: Array,
    masks: Array,
    *,
    jump_length: int = 10,
    jump_n_sample: int = 10,
    generator: Generator | Sequence[Generator],
    **options: Unpack[Options],
) -> Array:
    """Inpainting that goes back and forth, so that what is new and what was there come to fit together [1]_.

    Every `jump_length` steps, noise is added again for as many steps, and they are taken once more. That suits samplers
    which remember nothing, DDPM above all.

    Parameters
    ----------
    pipeline, images, masks
        See `inpaint`.
    jump_length : int
        How many steps a jump goes back.
    jump_n_sample : int
        How often a stretch of steps is taken; at 1 there are no jumps.
    generator : Generator, or a sequence of N
    **options
        See `generate`; 250 steps in the paper.

    Returns
    -------
    array, shape (N, C, H, W)
        In [-1, 1]; where the mask is 0, `images`.

    References
    ----------
    .. [1] Lugmayr et al., "RePaint: inpainting using denoising diffusion probabilistic models", 2022,
       arXiv:2201.09865, algorithm 1 and appendix B.
    """
    if jump_length < 1 or jump_n_sample < 1:
        raise ValueError(
            f"repaint: jump_length and jump_n_sample must be at least 1, got {jump_length} and {jump_n_sample}"
        )
    clean, mask = _image_and_mask(pipeline, images, masks, generator)

    def run(batch: Batch) -> Array:
        known, hidden, points = clean[batch.part, ...], mask[batch.part, ...], batch.sampler.points
        kept = _kept(batch.sampler, known, hidden, batch.noise)
        stops = [*batch.sampler.starts, len(points) - 1]
        x = batch.noise() * batch.sampler.init_noise_sigma
        place, goals, quiet = (
            0,
            _jumps(len(stops) - 1, jump_length, jump_n_sample),
            replace(batch, progress=False),
        )
        for goal in shown(goals, len(goals)) if batch.progress else goals:
            here, there = stops[place], stops[goal]
            if there > here:
                x = quiet.follow(x, begin=here, end=there, after=kept)
            else:
                x = _noisier(x, points[here], points[there], batch.noise())
            place = goal
        return x

    return draw(pipeline, clean.shape[0], generator, run, **options)


def _jumps(steps: int, length: int, samples: int) -> list[int]:
    """Where to go, in steps from the start: forth, back, forth, ..., and at last to `steps`.

    Jumps begin one step before the end, and every `length` steps before that, as in the paper's code.
    """
    goals: list[int] = []
    for turn in sorted(range(steps - 1, length - 1, -length)):
        goals += [turn, turn - length] * (samples - 1)
    return [*goals, steps]


def _kept(
    sampler: Sampler, known: Array, hidden: Array, draw: Callable[[], Array]
) -> Callable[[int, Array], Array]:
    """What puts back, after whole steps, what the mask does not hide: as noisy as the image, clean at the end."""
    last = len(sampler.points) - 1

    def after(i: int, x: Array) -> Array:
        if i == last:
            return hidden * x + (1 - hidden) * known
        if i not in sampler.starts:
            return x
        return hidden * x + (1 - hidden) * _noised(sampler.points[i], known, draw())

    return after


def _noised(point: Point, clean: Array, noise: Array) -> Array:
    return clean * point.alpha + noise * point.sigma


def _noisier(x: Array, here: Point, there: Point, noise: Array) -> Array:
    """From a point to an earlier one: q(x_there | x_here), the forward process."""
    kept = there.alpha / here.alpha
    return x * kept + noise * (there.sigma**2 - (kept * here.sigma) ** 2) ** 0.5


def _image_and_mask(
    pipeline: Pipeline, images: Array, masks: Array, generator: Generator | Sequence[Generator]
) -> tuple[Array, Array]:
    clean = pictures(images, generator, pipeline.image_shape)
    mask = on_device("masks", masks, generator, (1, *pipeline.image_shape[1:]))
    if mask.shape[0] not in (1, clean.shape[0]):
        raise ValueError(
            f"{mask.shape[0]} masks for {clean.shape[0]} images: give one for all, or one for each"
        )
    xp = backend_of(mask).xp
    low, high = float(xp.min(mask)), float(xp.max(mask))
    if not 0 <= low <= high <= 1:
        raise ValueError(f"masks: expected numbers from 0 (kept) to 1 (drawn anew), got {low:g} to {high:g}")
    return clean, ops.broadcast_to(mask, (clean.shape[0], *tuple(mask.shape[1:])))
