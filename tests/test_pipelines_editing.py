"""Images out of images: image-to-image and inpainting, on networks whose answers are known."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from minidiff.diffusion import DDPM, SAMPLERS
from minidiff.diffusion.points import Point
from minidiff.pipelines import image_to_image, inpaint, repaint
from minidiff.random import Generator
from tests.gaussian_denoiser import SHAPE, STD, close, gaussian, pictures

NOISY = {"ddpm", "euler-ancestral", "kdpm2-ancestral", "dpm-solver-sde", "lcm"}


# --- image to image


@pytest.mark.parametrize("strength", [0.3, 0.52, 0.97, 1.0])
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - NOISY))
def test_image_to_image_follows_the_path_of_its_noisy_image(name: str, strength: float) -> None:
    """Of Gaussian images the path of the deterministic samplers ends at x STD / sqrt(alpha^2 STD^2 + sigma^2)."""
    sampler, images, first = SAMPLERS[name](), pictures(), []
    if hasattr(sampler, "clip_sample"):
        sampler.clip_sample = False
    got = image_to_image(
        gaussian(sampler), images, strength=strength, steps=50, generator=[Generator(1), Generator(2)],
        callback=lambda i, t, x, x0: first.append(i),
    )  # fmt: skip
    point = sampler.points[first[0]]
    noise = np.concatenate([Generator(seed).normal((1, *SHAPE)) for seed in (1, 2)])
    noisy = point.alpha * images + point.sigma * noise
    exact = noisy * STD / math.hypot(point.alpha * STD, point.sigma)
    close(got, np.clip(exact, -1, 1), 0.06)
    assert sum(i in sampler.starts for i in first) == int(len(sampler.starts) * strength)


def test_strength_says_how_many_steps_are_taken() -> None:
    for strength, expected in ((1.0, 10), (0.55, 5), (0.01, 1)):
        steps: list[int] = []
        image_to_image(
            gaussian(), pictures(), strength=strength, steps=10, generator=Generator(0),
            callback=lambda i, t, x, x0, steps=steps: steps.append(i),
        )  # fmt: skip
        assert steps == list(range(10 - expected, 10))


# --- inpainting


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("how", [inpaint, repaint])
def test_what_the_mask_does_not_hide_stays(name: str, how: Any) -> None:
    sampler, images = SAMPLERS[name](), pictures()
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., 2:] = 1
    options = {"jump_length": 2, "jump_n_sample": 2} if how is repaint else {}
    got = how(gaussian(sampler), images, mask, steps=8, generator=Generator(0), **options)
    close(got[..., :2], images[..., :2], 1e-6)
    assert np.abs(got[..., 2:] - images[..., 2:]).max() > 0.1


CORRELATION = 0.8


def conditional(how: Any, **options: Any) -> tuple[float, float]:
    """Of the pixel below given the one above, drawn for 4,000 pairs: slope of its mean, and standard deviation."""
    pairs = STD * np.random.default_rng(3).normal(size=(1, 1, 2, 4000)) / 2
    mask = np.array([0.0, 1.0]).reshape(1, 1, 2, 1) * np.ones_like(pairs)
    pipeline = gaussian(DDPM(clip_sample=False), (1, 2, 4000), CORRELATION)
    got = how(pipeline, pairs.astype(np.float32), mask, generator=Generator(0), **options)
    above, below = got[0, 0].astype(np.float64)
    slope = float(above @ below / (above @ above))
    return slope, float(np.std(below - slope * above))


def test_repaint_draws_from_the_conditional_distribution_of_gaussian_images() -> None:
    """Slope 0.8 and standard deviation 0.6 STD; blending alone lets what is new know too little of what was there."""
    slope, spread = conditional(repaint, steps=250)
    assert slope == pytest.approx(CORRELATION, abs=0.06)
    assert spread == pytest.approx(STD * math.sqrt(1 - CORRELATION**2), rel=0.08)
    blended, _ = conditional(inpaint, steps=250)
    assert blended < 0.6


def test_repaint_jumps_as_in_the_paper() -> None:
    """The schedule of appendix B, one step at a time, and ours, with every jump in one."""
    from minidiff.pipelines.editing import _jumps

    def paper(total: int, length: int, samples: int) -> list[int]:
        left = dict.fromkeys(range(0, total - length, length), samples - 1)
        t, times = total, []
        while t >= 1:
            t -= 1
            times.append(t)
            if left.get(t, 0) > 0:
                left[t] -= 1
                for _ in range(length):
                    t += 1
                    times.append(t)
        return [*times, -1]

    for total, length, samples in ((250, 10, 10), (20, 5, 3), (20, 3, 2), (10, 20, 4), (7, 1, 2), (5, 2, 1)):
        times, place = [total - 1], 0
        for goal in _jumps(total, length, samples):
            step = 1 if goal > place else -1
            times += [total - 1 - p for p in range(place + step, goal + step, step)]
            place = goal
        assert times == paper(total, length, samples), (total, length, samples)


@pytest.mark.parametrize(
    ("here", "there"), [(Point(0.8, 0.6), Point(0.3, 0.9)), (Point(1, 0.5), Point(1, 4.0))]
)
def test_going_back_arrives_at_the_noise_of_the_earlier_point(here: Point, there: Point) -> None:
    """What image, old noise and new noise count there: alpha, and variances that add up to sigma^2."""
    from minidiff.pipelines.editing import _noisier

    one, zero = np.ones(1), np.zeros(1)
    of_x, of_noise = float(_noisier(one, here, there, zero)[0]), float(_noisier(zero, here, there, one)[0])
    assert of_x * here.alpha == pytest.approx(there.alpha, rel=1e-12)
    assert (of_x * here.sigma) ** 2 + of_noise**2 == pytest.approx(there.sigma**2, rel=1e-12)


def test_repaint_takes_the_steps_of_its_jumps() -> None:
    """0 to 3, back to 1, 1 to 5, back to 3, 3 to 6."""
    steps: list[int] = []
    repaint(
        gaussian(), pictures(1), np.ones((1, 1, 4, 4)), steps=6, jump_length=2, jump_n_sample=2,
        generator=Generator(0), callback=lambda i, t, x, x0: steps.append(i),
    )  # fmt: skip
    assert steps == [0, 1, 2, 1, 2, 3, 4, 3, 4, 5]


def test_nothing_is_put_back_inside_a_step() -> None:
    """Of a sampler that asks the network twice in a step, and needs what it has seen in between."""
    from minidiff.pipelines.editing import _kept

    sampler, known = SAMPLERS["heun"](), pictures(1)
    sampler.set_timesteps(3)
    after = _kept(sampler, known, 0 * known, lambda: 0 * known)
    changed = [i for i in range(1, len(sampler.points)) if (after(i, known + 9) != known + 9).any()]
    assert changed == [2, 4, 5]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_images_of_any_floating_type_are_taken(dtype: str) -> None:
    images = pictures().astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    generator = [Generator(3) for _ in images]
    got = image_to_image(gaussian(), images, generator=generator, steps=3)
    generator = [Generator(3) for _ in images]
    expected = image_to_image(gaussian(), images.astype(np.float32), generator=generator, steps=3)
    np.testing.assert_array_equal(got, expected)
