"""What all pipelines share: their options, and a run in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from minidiff import ops
from minidiff.backend import Array, Backend, backend_of
from minidiff.diffusion.sampling import Callback, follow
from minidiff.modes import inference
from minidiff.pipelines.denoiser import Guidance, PredictAt, denoiser
from minidiff.pipelines.noise import NoisePerImage, one_per_image
from minidiff.pipelines.pipeline import Pipeline
from minidiff.random import Generator

__all__ = ["Batch", "Options", "draw", "on_device", "pictures"]


class Options(TypedDict, total=False):
    """What every pipeline can be told; `generate` says what it means."""

    labels: Sequence[int] | None
    guidance: float | Guidance
    steps: int
    batch_size: int | None
    callback: Callback | None
    progress: bool


@dataclass(frozen=True)
class Batch:
    """Some of the images, as they are drawn.

    Attributes
    ----------
    part : slice
        Which of all images.
    shape : tuple of int
        (N, C, H, W).
    predict_at, sampler, rng, callback, progress
        See `diffusion.sampling.follow`.
    """

    part: slice
    shape: tuple[int, int, int, int]
    predict_at: PredictAt
    sampler: Any
    rng: Generator
    callback: Callback | None
    progress: bool

    def follow(self, x: Array, **where: Any) -> Array:
        """From noise to images, or the part of the way that `where` says."""
        return follow(
            self.predict_at,
            x,
            self.sampler,
            rng=self.rng,
            callback=self.callback,
            progress=self.progress,
            **where,
        )

    def noise(self) -> Array:
        """Fresh standard normal noise."""
        return self.rng.normal(self.shape)


def draw(
    pipeline: Pipeline,
    count: int,
    generator: Generator | Sequence[Generator],
    run: Callable[[Batch], Array],
    *,
    beside: Array = None,
    labels: Sequence[int] | None = None,
    guidance: float | Guidance = 1.0,
    steps: int = 50,
    batch_size: int | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Array:
    """Draw `count` images, `run` being what draws a batch of them.

    Parameters
    ----------
    beside : array, shape (count, c, H, W), optional
        Further channels of the network's input.

    Returns
    -------
    array, shape (count, C, H, W)
        Limited to [-1, 1].
    """
    if count < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(
            f"expected at least one image and a batch size of at least 1, got {count} and {batch_size}"
        )
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} images: give one for each")
    generators, size = one_per_image(generator, count), batch_size or count
    ask = denoiser(pipeline, _common_backend(pipeline, generators[0]), guidance)
    images = []
    with inference():
        for first in range(0, count, size):
            part = slice(first, min(first + size, count))
            pipeline.sampler.set_timesteps(steps)
            predict_at = ask(
                None if labels is None else labels[part], None if beside is None else beside[part, ...]
            )
            rng = NoisePerImage(generators[part])
            shape = (part.stop - part.start, *pipeline.image_shape)
            images.append(run(Batch(part, shape, predict_at, pipeline.sampler, rng, callback, progress)))
    return ops.clip(ops.concat(images) if len(images) > 1 else images[0], -1.0, 1.0)


def on_device(
    what: str, images: Array, generator: Generator | Sequence[Generator], shape: tuple[Any, ...]
) -> Array:
    """Images of the caller beside the network, float32, after a look at their shape.

    Parameters
    ----------
    what : str
        What messages call them.
    images : array, shape (N, C, H, W)
        Of any library.
    shape : tuple
        What is expected of C, H and W; None fits everything.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    found = tuple(images.shape)
    if len(found) != 4 or any(want not in (None, n) for want, n in zip(shape, found[1:], strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{what}: expected shape (N, {wanted}), got {found}")
    there = (generator if isinstance(generator, Generator) else generator[0]).backend
    here = backend_of(images)
    moved = images if here is there else there.from_numpy(here.to_numpy(images))
    return ops.astype(moved, there.xp.float32, copy=False)


def pictures(images: Array, generator: Generator | Sequence[Generator], shape: tuple[Any, ...]) -> Array:
    """`on_device`, for images in [-1, 1].

    Raises
    ------
    TypeError
        If they hold integers, as pictures in files do.
    """
    if not ops.isdtype(images.dtype, "real floating"):
        raise TypeError(
            f"images: expected floating numbers in [-1, 1], got {images.dtype}; pictures of numbers from 0 to 255 are "
            "images / 127.5 - 1"
        )
    return on_device("images", images, generator, shape)


def _common_backend(pipeline: Pipeline, generator: Generator) -> Backend:
    home, backend = pipeline.backend, generator.backend
    if home is not None and home is not backend:
        raise ValueError(
            f"the network is on {home.device!r}, the generator on {backend.device!r}; "
            f"make it with Generator(seed, {home.device!r})"
        )
    return backend
