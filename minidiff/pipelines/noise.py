"""A generator for each image, so that what one image looks like does not depend on those drawn beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minidiff import ops
from minidiff.backend import Array
from minidiff.random import Generator

__all__ = ["NoisePerImage", "one_per_image"]


class NoisePerImage(Generator):
    """Draws the noise of a batch from a generator for each image; stands in for one generator in samplers.

    Parameters
    ----------
    generators : sequence of Generator
        At least one; all on one device.
    """

    def __init__(self, generators: Sequence[Generator]) -> None:
        super().__init__(0, generators[0].backend)
        self._generators = list(generators)

    def normal(self, shape: int | Iterable[int], *, dtype: Any = None) -> Array:
        """Standard normal numbers, `shape[0]` being the number of generators."""
        count, *rest = (shape,) if isinstance(shape, int) else tuple(shape)
        if count != len(self._generators):
            raise ValueError(f"NoisePerImage: {len(self._generators)} generators for {count} images")
        return ops.stack([generator.normal(rest, dtype=dtype) for generator in self._generators])


def one_per_image(generator: Generator | Sequence[Generator], count: int) -> list[Generator]:
    """As many generators as there are images: those that were given, or children of the one that was given.

    Raises
    ------
    ValueError
        If there are not as many generators as images, one of them is there twice, or their devices differ.
    """
    if isinstance(generator, Generator):
        return [generator.split() for _ in range(count)]
    found = list(generator)
    if len(found) != count or len({id(g) for g in found}) != count:
        raise ValueError(
            f"{len(found)} generators ({len({id(g) for g in found})} different ones) for {count} images: "
            "give one for all, or one for each"
        )
    if len({g.backend.device for g in found}) > 1:
        raise ValueError(
            f"generators of one run are on one device, not on {sorted({g.backend.device for g in found})}"
        )
    return found
