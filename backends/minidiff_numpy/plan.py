"""Where the taps of a convolution fall, and how its work is cut into parts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minidiff_numpy.layout import is_pixel_major

_PANEL_BYTES = 1 << 20  # in each lane


@dataclass(frozen=True)
class Plan:
    """Sides of the image that is correlated (`inputs`) and of the result (`outputs`), and where taps fall."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def is_product(self) -> bool:
        """Whether every pixel meets one tap, in its place: then one matrix product is enough."""
        return self.kernel == (1, 1) and self.padding == (0, 0) and self.inputs == self.outputs

    def reversed(self) -> Plan | None:
        """The plan by which mirrored filters correlate results back to images, if there is one."""
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        top, left = (r - p for r, p in zip(reach, self.padding, strict=True))
        sides = tuple(o + r - 2 * p for o, r, p in zip(self.outputs, reach, self.padding, strict=True))
        if self.stride != (1, 1) or min(top, left) < 0 or sides != self.inputs:
            return None
        return Plan(self.outputs, self.inputs, self.kernel, (1, 1), (top, left), self.dilation)

    def multiplications(self, images: int, channels: int, filters: int) -> int:
        """How many there are in the whole convolution."""
        return images * math.prod(self.outputs) * math.prod(self.kernel) * channels * filters

    def tiles(
        self, images: int, channels: int, itemsize: int, *, shares: int, apart: bool = False
    ) -> list[tuple[slice, slice]]:
        """Parts of the batch whose panel is small, some images and some of their rows; enough for `shares`.

        They are cut as the memory of results is. If what they write is to lie `apart`, shares have images of their own.
        """
        row = max(1, self.outputs[1] * self.kernel[0] * self.kernel[1] * channels * itemsize)
        height = self.outputs[0]
        if is_pixel_major(images, *self.outputs):
            step = min(-(-images // shares) if apart else images, max(1, _PANEL_BYTES // row))
            rows = min(height if apart else -(-height // shares), max(1, _PANEL_BYTES // (row * step)))
        else:
            step, rows = 1, max(1, _PANEL_BYTES // row)
            if images == 1:
                rows = min(rows, -(-height // shares))
            if rows >= height:
                tiles = max(1, -(-images // max(1, rows // height)))
                step = max(1, -(-images // (shares * -(-tiles // shares))))  # as many for each lane
        return [
            (slice(n, min(n + step, images)), slice(r, min(r + rows, height)))
            for n in range(0, images, step)
            for r in range(0, height, rows)
        ]
