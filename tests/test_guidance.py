"""Guidance with rescale, against the formulas of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.backend import Backend
from minidiff.diffusion import classifier_free_guidance
from minidiff.diffusion.guidance import rescale_guidance


def images(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(3, 2, 5, 4)) * np.array([1.0, 2.0, 0.5]).reshape(
        3, 1, 1, 1
    )


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_rescaled_guidance_has_the_standard_deviation_of_the_paper(backend: Backend, share: float) -> None:
    guided, conditional = 3 * images(0) + 1, images(1)
    got = rescale_guidance(backend.from_numpy(guided), backend.from_numpy(conditional), share)
    for y, g, c in zip(backend.to_numpy(got), guided, conditional, strict=True):
        np.testing.assert_allclose(y, share * g * c.std() / g.std() + (1 - share) * g, rtol=1e-6)
        assert y.std() == pytest.approx(share * c.std() + (1 - share) * g.std(), rel=1e-6)


def test_guidance_rescales_what_it_returns() -> None:
    weight = np.random.default_rng(1).normal(size=(1, 2, 1, 1))

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        return ops.tanh(x * weight + ops.reshape(ops.astype(labels, x.dtype), (-1, 1, 1, 1)))

    x, t, labels = images(0), np.array([7, 7, 7]), np.array([0, 1, 2])
    plain, rescaled, c = (
        classifier_free_guidance(model, labels, 3, scale, rescale=rescale)(x, t)
        for scale, rescale in ((4.0, 0.0), (4.0, 0.7), (1.0, 0.7))
    )
    np.testing.assert_allclose(rescaled, rescale_guidance(plain, c, 0.7), rtol=1e-12)
    assert not np.allclose(rescaled, plain)


def test_a_learned_variance_is_not_guided(backend: Backend) -> None:
    def model(x: Any, t: Any, *, labels: Any) -> Any:
        said = ops.zeros_like(x) + ops.reshape(ops.astype(labels, x.dtype), (-1, 1, 1, 1))
        return ops.concat([said, -said], axis=1)

    x, t, labels = (backend.from_numpy(a) for a in (images(0), np.array([7, 7, 7]), np.array([0, 1, 2])))
    y = backend.to_numpy(classifier_free_guidance(model, labels, 3, 4.0)(x, t))
    np.testing.assert_allclose(y[:, :2, 0, 0], np.array([[-9.0, -5.0, -1.0]] * 2).T)
    np.testing.assert_allclose(y[:, 2:, 0, 0], np.array([[0.0, -1.0, -2.0]] * 2).T)


def test_rescale_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"rescale must lie in \[0, 1\], got 1\.5"):
        classifier_free_guidance(lambda x, t, labels: x, np.array([0]), 1, 2.0, rescale=1.5)
