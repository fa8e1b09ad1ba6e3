"""Convolution of a few pixels: when it serves, and every geometry of it against the rule."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_comparison import compare_images, laid_out, sharing  # noqa: F401

from minidiff.models import UNet
from minidiff_numpy import all_pairs
from minidiff_numpy.plan import Plan

pytestmark = pytest.mark.usefixtures("sharing")

GEOMETRIES = [
    Plan((h, w), (h + 2 * p - k + 1, w + 2 * q - k + 1), (k, k), (1, 1), (p, q), (1, 1))
    for h, w, k, p, q in itertools.product((1, 2, 3, 4), (1, 2, 4), (1, 2, 3, 4), (0, 1, 2, 3), (0, 1, 2))
    if h + 2 * p >= k and w + 2 * q >= k
]
SERVED = [plan for plan in GEOMETRIES if all_pairs.serves(plan, 16)]


def sees(plan: Plan, axis: int, pixel: int, result: int) -> bool:
    return 0 <= pixel - result + plan.padding[axis] < plan.kernel[axis]


def test_it_serves_where_every_pixel_is_seen() -> None:
    for plan in GEOMETRIES:
        everywhere = all(
            sees(plan, axis, i, j)
            for axis in (0, 1)
            for i in range(plan.inputs[axis])
            for j in range(plan.outputs[axis])
        )
        assert all_pairs.serves(plan, 16) == everywhere
        assert not all_pairs.serves(plan, 15)
    assert 20 < len(SERVED) < len(GEOMETRIES) - 20


@pytest.mark.parametrize("apart", [{"stride": (1, 2)}, {"dilation": (2, 1)}])
def test_it_does_not_serve_strides_and_dilations(apart: dict[str, tuple[int, int]]) -> None:
    options = {"stride": (1, 1), "dilation": (1, 1)} | apart
    assert not all_pairs.serves(Plan((1, 1), (1, 1), (1, 1), padding=(0, 0), **options), 16)


@pytest.mark.parametrize("plan", SERVED, ids=str)
@pytest.mark.parametrize(("batch", "dtype"), [(16, "float64"), (17, "float32")])
def test_every_geometry(plan: Plan, batch: int, dtype: str) -> None:
    rng, (k, _) = np.random.default_rng(0), plan.kernel
    x, weight = laid_out(rng, (batch, 3, *plan.inputs), dtype), laid_out(rng, (5, 3, k, k), dtype)
    bias, shift = laid_out(rng, (5,), dtype), laid_out(rng, (batch, 5), dtype)
    residual = laid_out(rng, (batch, 5, *plan.outputs), dtype)
    compare_images("conv2d", x, weight, bias, shift, residual, padding=plan.padding)
    compare_images("conv_transpose2d", residual, weight, None, padding=plan.padding)


def test_the_network_of_the_digits_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its lowest level there are 2x2 pixels."""
    correlate, seen = all_pairs.correlate, []

    def watched(x: np.ndarray, *others: object) -> np.ndarray:
        seen.append(x.shape[1:3])
        return correlate(x, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(all_pairs, "correlate", watched)
    UNet(1, 8, 1)(np.zeros((16, 1, 8, 8), np.float32), 5)
    assert seen == [(2, 2)] * 8
