"""Pipelines on networks whose answers are known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.backend import Backend, get_backend
from minidiff.diffusion import DDIM, DDPM, sample
from minidiff.models import UNet
from minidiff.pipelines import (
    Guidance,
    Pipeline,
    generate,
    image_to_image,
    inpaint,
    interpolate,
    repaint,
    slerp,
    super_resolution,
)
from minidiff.pipelines.denoiser import denoiser
from minidiff.random import Generator
from tests.gaussian_denoiser import SHAPE, close, gaussian, pictures

# --- noise, batches, generators


def test_one_image_is_that_of_sample(backend: Backend) -> None:
    pipeline = gaussian(DDPM(clip_sample=False))
    got = generate(pipeline, 1, steps=5, generator=[Generator(3, backend)])
    expected = sample(
        pipeline.model, (1, *SHAPE), DDPM(clip_sample=False), steps=5, rng=Generator(3, backend)
    )
    close(backend.to_numpy(got), np.clip(backend.to_numpy(expected), -1, 1))


@pytest.mark.parametrize("together", [1, 2, 3, 5])
def test_an_image_depends_on_its_own_generator_only(together: int) -> None:
    """Neither on the batch, nor on how many are drawn, nor on those beside it."""
    pipeline = gaussian(DDPM(clip_sample=False))
    alone = [generate(pipeline, 1, steps=4, generator=[Generator(seed)])[0] for seed in range(5)]
    batch = generate(
        pipeline, 5, steps=4, generator=[Generator(seed) for seed in range(5)], batch_size=together
    )
    close(batch, np.stack(alone), 1e-6)
    one = [generate(pipeline, n, steps=4, generator=Generator(7), batch_size=together) for n in (5, 3)]
    close(one[0][:3], one[1], 1e-6)
    assert np.abs(one[0][0] - one[0][1]).max() > 0.01


def test_noise_may_be_given(backend: Backend) -> None:
    noise = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    got = generate(gaussian(), 2, steps=4, generator=Generator(0, backend), noise=noise)
    sampler = DDIM(clip_sample=False)
    expected = sample(
        gaussian().model,
        noise.shape,
        sampler,
        steps=4,
        rng=Generator(0),
        initial=noise * sampler.init_noise_sigma,
    )
    close(backend.to_numpy(got), np.clip(expected, -1, 1))


def test_callbacks_see_every_step_of_every_batch() -> None:
    calls: list[tuple[int, float, int]] = []

    def callback(i: int, t: float, x: Any, x0: Any) -> None:
        assert x.shape == x0.shape
        calls.append((i, t, x.shape[0]))

    generate(gaussian(), 3, steps=2, generator=Generator(0), batch_size=2, callback=callback, progress=True)
    assert calls == [(0, 500, 2), (1, 0, 2), (0, 500, 1), (1, 0, 1)]


def test_images_end_in_their_range() -> None:
    loud = Pipeline(lambda x, t: -5 * x, DDIM(clip_sample=False), SHAPE)
    got = generate(loud, 2, steps=3, generator=Generator(0))
    assert (got.min(), got.max()) == (-1, 1)


# --- labels and guidance


class Labelled:
    """Says its label, and remembers how it was asked."""

    null_label = 9

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[int]]] = []

    def __call__(self, x: Any, t: Any, *, labels: Any) -> Any:
        self.calls.append((int(t[0]), labels.tolist()))
        return 0 * x + labels.reshape(-1, 1, 1, 1).astype(x.dtype) / 10


def test_labels_follow_their_images_through_batches() -> None:
    model = Labelled()
    generate(
        Pipeline(model, DDIM(), SHAPE), 3, labels=[4, 5, 6], steps=1, generator=Generator(0), batch_size=2
    )
    assert model.calls == [(0, [4, 5]), (0, [6])]


def test_guidance_asks_for_both_and_only_inside_its_interval() -> None:
    model, sampler = Labelled(), DDIM()
    sampler.set_timesteps(4)
    ratios = [point.ratio for point in sampler.points[:-1]]
    interval = (ratios[2], ratios[1])  # above the first, up to the second
    options = {"labels": [4, 5], "steps": 4, "generator": Generator(0)}
    generate(Pipeline(model, sampler, SHAPE), 2, guidance=Guidance(3.0, interval=interval), **options)  # type: ignore[arg-type]
    assert [labels for _, labels in model.calls] == [[4, 5], [4, 5, 9, 9], [4, 5], [4, 5]]
    model.calls.clear()
    generate(Pipeline(model, sampler, SHAPE), 2, guidance=3.0, **options)  # type: ignore[arg-type]
    assert [labels for _, labels in model.calls] == [[4, 5, 9, 9]] * 4


def test_batches_share_what_was_compiled() -> None:
    """What differs between them is an argument, so that a graph that was captured for one serves the next."""
    made: list[list[Any]] = []  # the calls of each compiled function

    def compiled(fn: Any) -> Any:
        made.append(calls := [])
        return lambda *args: calls.append(args) or fn(*args)

    model, sampler = Labelled(), DDIM()
    sampler.set_timesteps(1)
    ask = denoiser(Pipeline(model, sampler, SHAPE), replace(get_backend("cpu"), compile=compiled), 3.0)
    beside = pictures(2, (1, 4, 4))
    for labels in ([4, 5], [6, 7]):
        predict = ask(labels, beside)(0)
        predict(np.zeros((2, *SHAPE), "float32"), np.zeros(2, "int64"))
    (calls,) = filter(None, made)
    assert [labels for _, labels in model.calls] == [[4, 5, 9, 9], [6, 7, 9, 9]]
    assert [[tuple(x.shape) for x in args] for args in calls] == [[(2, 1, 4, 4), (2,), (2, *SHAPE), (2,)]] * 2


def test_guidance_is_that_of_diffusion_sample() -> None:
    unet = UNet(1, 4, 1, num_classes=3)
    noise = Generator(0).normal((2, *SHAPE))
    from minidiff.diffusion import classifier_free_guidance

    guided = classifier_free_guidance(unet, np.array([0, 2]), 3, 2.5, rescale=0.7)
    expected = sample(guided, noise.shape, DDIM(), steps=3, rng=Generator(1), initial=noise)
    got = generate(
        Pipeline(unet, DDIM(), SHAPE), 2,
        labels=[0, 2], guidance=Guidance(2.5, rescale=0.7), steps=3, noise=noise, generator=Generator(1),
    )  # fmt: skip
    close(got, np.clip(expected, -1, 1))


# --- interpolation


def test_interpolation_goes_from_one_seed_to_the_other() -> None:
    pipeline = gaussian(DDPM(clip_sample=False))
    got = interpolate(pipeline, 5, steps=6, first=Generator(1), second=Generator(2), batch_size=2)
    close(got[0], generate(pipeline, 1, steps=6, generator=[Generator(1)])[0], 1e-6)
    gaps = [np.abs(b - a).mean() for a, b in itertools.pairwise(got)]
    assert max(gaps) < 2 * min(gaps)
    assert sum(gaps) < 1.5 * np.abs(got[-1] - got[0]).mean()
    first, second = (generate(gaussian(), 1, steps=6, generator=[Generator(seed)])[0] for seed in (1, 2))
    close(
        interpolate(gaussian(), 2, steps=6, first=Generator(1), second=Generator(2)),
        np.stack([first, second]),
        1e-6,
    )


def test_slerp_stays_on_its_circle(backend: Backend) -> None:
    a, b = (backend.from_numpy(np.array(v)) for v in ([3.0, 0.0, 0.0], [0.0, 3.0, 0.0]))
    for share in (0.0, 0.25, 1.0):
        angle = share * math.pi / 2
        close(backend.to_numpy(slerp(a, b, share)), [3 * math.cos(angle), 3 * math.sin(angle), 0], 1e-12)
    close(backend.to_numpy(slerp(a, 2 * a, 0.5)), [4.5, 0, 0], 1e-12)
    close(backend.to_numpy(slerp(0 * a, b, 0.5)), [0, 1.5, 0], 1e-12)


# --- super-resolution


def test_super_resolution_shows_the_network_the_enlarged_image(backend: Backend) -> None:
    seen = []

    def model(x: Any, t: Any) -> Any:
        seen.append(backend.to_numpy(x))
        return 0 * x[:, :1, ...]

    small = pictures(3, (2, 2, 2))
    images = super_resolution(
        Pipeline(model, DDIM(), SHAPE), small, steps=1, generator=Generator(0, backend), batch_size=2
    )
    assert tuple(images.shape) == (3, *SHAPE)
    assert [x.shape for x in seen] == [(2, 3, 4, 4), (1, 3, 4, 4)]
    large = ops.upsample2d(small, 2, mode="bilinear")
    close(np.concatenate(seen)[:, 1:], large, 1e-6)


def test_super_resolution_of_images_of_the_same_size_with_guidance() -> None:
    model, same = Labelled(), pictures(2)
    seen = []

    def beside(x: Any, t: Any, *, labels: Any) -> Any:
        seen.append(x[:, 1:])
        return model(x[:, :1], t, labels=labels)

    beside.null_label = 9  # type: ignore[attr-defined]
    options: dict[str, Any] = {"steps": 1, "generator": Generator(0), "labels": [1, 2], "guidance": 2.0}
    super_resolution(Pipeline(beside, DDIM(), SHAPE), same, **options)
    np.testing.assert_array_equal(seen[0], np.concatenate([same, same]))


# --- dtypes, devices, mistakes


def test_the_network_computes_in_the_dtype_of_its_parameters() -> None:
    unet = UNet(1, 4, 1)
    for p in unet.parameters().values():
        p.data = p.data.astype(np.float16)
    seen = []

    class Watched:
        state_dict, config = unet.state_dict, unet.config

        def __call__(self, x: Any, t: Any) -> Any:
            seen.append(x.dtype)
            return unet(x, t)

    images = generate(Pipeline(Watched(), DDIM(), SHAPE), 1, steps=2, generator=Generator(0))
    assert seen == [np.float16] * 2
    assert images.dtype == np.float32


def test_pipelines_on_every_library(backend: Backend) -> None:
    """The same images on each, from pictures on the host."""
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., 1:3] = 1
    for how, inputs in ((image_to_image, ()), (inpaint, (mask,)), (repaint, (mask,))):
        here, there = (
            how(
                gaussian(DDPM(clip_sample=False)),
                pictures(),
                *inputs,
                steps=12,
                generator=Generator(1, device),
            )  # type: ignore[operator]
            for device in ("cpu", backend)
        )
        close(backend.to_numpy(there), here)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: generate(p, 0, generator=Generator(0)), "at least one image .* got 0"),
        (lambda p: generate(p, 2, generator=Generator(0), batch_size=0), "batch size of at least 1, got 2 and 0"),
        (lambda p: generate(p, 2, generator=[Generator(0)]), "1 generators .* for 2 images"),
        (lambda p: generate(p, 2, generator=[Generator(0)] * 2), r"2 generators \(1 different ones\) for 2 images"),
        (lambda p: generate(p, 2, generator=Generator(0), labels=[1]), "1 labels for 2 images"),
        (lambda p: generate(p, 2, generator=Generator(0), guidance=2.0), r"guidance of scale 2\.0 needs labels"),
        (
            lambda p: generate(p, 1, generator=Generator(0), labels=[1], guidance=2.0),
            "needs a network with a label that stands for any class",
        ),
        (
            lambda p: generate(p, 1, generator=Generator(0), noise=np.zeros((2, *SHAPE))),
            "noise: expected 1 images, got 2",
        ),
        (
            lambda p: image_to_image(p, pictures(), strength=0.0, generator=Generator(0)),
            r"strength must be above 0 and at most 1, got 0\.0",
        ),
        (
            lambda p: image_to_image(p, pictures(2, (1, 4, 5)), generator=Generator(0)),
            r"images: expected shape \(N, 1, 4, 4\), got \(2, 1, 4, 5\)",
        ),
        (
            lambda p: inpaint(p, pictures(), pictures(3), generator=Generator(0)),
            "3 masks for 2 images",
        ),
        (
            lambda p: inpaint(p, pictures(), np.full((1, 1, 4, 4), 255, np.uint8), generator=Generator(0)),
            r"masks: expected numbers from 0 \(kept\) to 1 \(drawn anew\), got 255 to 255",
        ),
        (
            lambda p: image_to_image(p, np.full((1, *SHAPE), 200, np.uint8), generator=Generator(0)),
            r"images: expected floating numbers in \[-1, 1\], got uint8.* 127\.5 - 1",
        ),
        (
            lambda p: generate(p, 2, generator=Generator(0), labels=[1, 0.5]),
            r"labels: expected numbers of classes, which are whole, got \[1\.0, 0\.5\]",
        ),
        (
            lambda p: repaint(p, pictures(), np.ones((1, 1, 4, 4)), jump_length=0, generator=Generator(0)),
            "jump_length and jump_n_sample must be at least 1, got 0 and 10",
        ),
        (lambda p: interpolate(p, 1, first=Generator(0), second=Generator(1)), "at least 2 images"),
        (
            lambda p: super_resolution(p, pictures(1, (1, 3, 3)), generator=Generator(0)),
            "3 x 3 pixels are not 4 x 4 divided by a whole number",
        ),
        (lambda p: Guidance(2.0, interval=(3.0, 1.0)), r"got \(3\.0, 1\.0\)"),
        (lambda p: Guidance(2.0, rescale=1.5), r"rescale must lie in \[0, 1\], got 1\.5"),
        (lambda p: Pipeline(lambda x, t: x, DDIM()), r"give image_shape=\(C, H, W\)"),
    ],
)  # fmt: skip
def test_mistakes(call: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call(gaussian())


def test_a_generator_of_another_device_is_refused(backend: Backend) -> None:
    if backend.device == "cpu":
        pytest.skip("needs a second library")
    with pytest.raises(
        ValueError, match=r"the network is on 'cpu', the generator on .*Generator\(seed, 'cpu'\)"
    ):
        generate(Pipeline(UNet(1, 4, 1), DDIM(), SHAPE), 1, generator=Generator(0, backend))
