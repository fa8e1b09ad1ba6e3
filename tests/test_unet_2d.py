"""`UNet2DModel`: diffusers' stored answers, every array library, dtypes, training, checkpointing, and errors."""

from __future__ import annotations

import json
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest

from minidiff import nn, ops
from minidiff.autodiff import backward, record, stop_gradient, value_and_grad
from minidiff.backend import Backend, backend_of, get_backend
from minidiff.diffusion import GaussianDiffusion, classifier_free_guidance
from minidiff.models import UNet2DModel
from minidiff.nn.fir import fir_downsample2d, fir_upsample2d
from minidiff.optim import Adam
from minidiff.random import Generator
from minidiff.testing import load_backend
from tests.unet_2d_configurations import CASES, REFERENCES, filled, inputs, summary, thinned

TINY = {"block_out_channels": [4, 8], "norm_num_groups": 2, "layers_per_block": 1, "attention_head_dim": 4}
PLAIN = {
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
SKIP = {
    "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
    "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
    "block_out_channels": [32, 32],  # attention in these blocks has 32 groups whatever the configuration says
    "norm_num_groups": None,
    "time_embedding_type": "fourier",
}
TINIES: dict[str, dict[str, Any]] = {
    "plain": {**TINY, **PLAIN, "num_class_embeds": 10},
    "filtered": {**TINY, **SKIP, "attention_head_dim": 32},
    "scale and shift": {
        **TINY, "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"], "resnet_time_scale_shift": "scale_shift",
        "act_fn": "mish", "class_embed_type": "identity",
    },
}  # fmt: skip


def model_of(config: dict[str, Any], device: str | Backend = "cpu", *, dtype: str = "float32") -> UNet2DModel:
    """With weights that diffusers can be given, too."""
    model = UNet2DModel(**config, rng=Generator(0, device))
    backend = Generator(0, device).backend
    for name, value in filled({name: p.shape for name, p in model.parameters().items()}).items():
        model.parameters()[name].data = backend.from_numpy(value.astype(dtype))
    return model


def gradients(model: UNet2DModel, given: dict[str, Any]) -> dict[str, Any]:
    """Of sum(y * direction), a direction that is a function of the seed."""
    with record(model):
        y = model(given["x"], given["t"], given.get("labels"))
        loss = ops.sum(
            ops.multiply(y, ops.astype(Generator(6, backend_of(stop_gradient(y))).normal(y.shape), y.dtype))
        )
    return dict(backward(loss))


@pytest.mark.parametrize("name", CASES)
def test_diffusers_stored_answers(name: str) -> None:
    case = CASES[name]
    model, given = model_of(case.small_config), inputs(case.small_config, 2, case.side)
    with np.load(REFERENCES) as stored:
        output, lengths = stored[f"{name}: output"], stored[f"{name}: gradients"]
    y = thinned(model(given["x"], given["t"], given.get("labels")))
    assert np.linalg.norm(y - output) < 1e-5 * np.linalg.norm(output)
    found = summary(gradients(model, given))
    names = sorted(model.parameters())
    sizes = np.asarray([lengths[names.index(n.replace("to_k.bias", "to_k.weight")), 0] for n in names])
    assert np.all(np.abs(found - lengths) <= 1e-3 * sizes[:, None]), name
    assert np.count_nonzero(sizes) == len(names) - ("fourier" in str(case.config))


@pytest.mark.parametrize("name", TINIES)
def test_every_library_gives_the_same(backend: Backend, name: str) -> None:
    config = TINIES[name]
    given = inputs(config, 2, (4, 4))
    mine = {key: backend.from_numpy(value) for key, value in given.items()}
    model = model_of(config, backend)
    y = model(mine["x"], mine["t"], mine.get("labels"))
    assert isinstance(y, backend.array_type)
    assert y.dtype == backend.xp.float32
    host = model_of(config)
    expected = host(given["x"], given["t"], given.get("labels"))
    assert np.linalg.norm(backend.to_numpy(y) - expected) < 1e-5 * np.linalg.norm(expected)
    if backend.device == "simt" and name != "plain":
        return  # the emulator is slow, and the operations are the same
    slopes = gradients(host, given)
    for key, g in gradients(model, mine).items():
        size = np.linalg.norm(slopes[key.replace("to_k.bias", "to_k.weight")])
        assert np.linalg.norm(backend.to_numpy(g) - slopes[key]) <= 1e-4 * size, key


HALF = {"float16": 0.01, "bfloat16": 0.06}


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_everywhere(backend: Backend, dtype: str) -> None:
    if backend.device == "strict":
        pytest.skip("array-api-strict has neither")
    assert half_error(TINIES["plain"], backend, dtype) < HALF[dtype]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", TINIES)
def test_half_precision(name: str, dtype: str) -> None:
    for weights in ("float32", dtype):
        assert half_error(TINIES[name], get_backend("cpu"), dtype, weights) < HALF[dtype]


def half_error(config: dict[str, Any], backend: Backend, dtype: str, weights: str = "float32") -> float:
    """The distance to the float32 output, relative to its size."""
    given = inputs(config, 2, (4, 4))
    expected = model_of(config)(given["x"], given["t"], given.get("labels"))
    model = model_of(config, backend)
    for p in model.parameters().values():
        p.data = ops.astype(p.data, weights)
    mine = {key: backend.from_numpy(value) for key, value in given.items()}
    x = ops.astype(mine["x"], dtype)
    y = model(x, mine["t"], mine.get("labels"))
    assert y.dtype == x.dtype
    y = backend.to_numpy(ops.astype(y, "float32"))
    return float(np.linalg.norm(y - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", TINIES)
def test_checkpointed_blocks_give_the_same_gradients(name: str) -> None:
    config = {**TINIES[name], "dropout": 0.3}
    model, given = model_of(config, dtype="float64"), inputs(config, 2, (8, 8))
    given["x"] = given["x"].astype("float64")

    def loss() -> Any:
        y = model(given["x"], given["t"], given.get("labels"), rng=Generator(3))
        return ops.mean(ops.square(y))

    expected = value_and_grad(loss, model)()
    model.enable_gradient_checkpointing()
    assert model.gradient_checkpointing
    found = value_and_grad(loss, model)()
    assert found[0] == expected[0]
    for key, g in expected[1].items():
        np.testing.assert_allclose(found[1][key], g, rtol=1e-9, atol=1e-12, err_msg=key)
    model.disable_gradient_checkpointing()
    assert not model.gradient_checkpointing


def test_checkpointing_remembers_less() -> None:
    pytest.importorskip("array_api_strict")  # which takes memory from NumPy for every array, and keeps none
    rng = Generator(0, load_backend("strict"))
    model = UNet2DModel(**TINIES["plain"], rng=rng)
    x, held = rng.normal((2, 3, 32, 32)), []
    for enable in (model.disable_gradient_checkpointing, model.enable_gradient_checkpointing):
        enable()
        tracemalloc.start()
        with record(model):
            loss = ops.mean(ops.square(model(x, 5, 1)))
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        backward(loss)
    assert held[1] < 0.4 * held[0], held


def test_dropout_is_drawn_where_a_generator_is_given() -> None:
    config = TINIES["plain"]
    model, plain = model_of({**config, "dropout": 0.5}), model_of(config)
    given = inputs(config, 2, (4, 4))
    x, t, labels = given["x"], given["t"], given["labels"]
    np.testing.assert_array_equal(model(x, t, labels), plain(x, t, labels))
    first, again, other = (model(x, t, labels, rng=Generator(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    np.testing.assert_array_equal(plain(x, t, labels, rng=Generator(1)), plain(x, t, labels))


def test_it_learns() -> None:
    rng = Generator(1)
    clean, noise = rng.uniform((4, 1, 8, 8), low=-1, high=1), rng.normal((4, 1, 8, 8))
    alpha_bar = np.asarray([0.9, 0.6, 0.3, 0.05], np.float32).reshape(4, 1, 1, 1)
    noisy = np.sqrt(alpha_bar) * clean + np.sqrt(1 - alpha_bar) * noise
    widths = {"block_out_channels": [16, 32], "norm_num_groups": 8, "in_channels": 1, "out_channels": 1}
    model = UNet2DModel(**{**TINY, **PLAIN, **widths}, rng=rng)
    optimizer = Adam(model, lr=3e-3)
    step = value_and_grad(lambda: ops.mse_loss(model(noisy, [100, 300, 600, 900]), noise), model)
    losses = []
    for _ in range(60):
        loss, grads = step()
        optimizer.step(grads)
        losses.append(float(loss))
    assert losses[0] > 0.5
    assert losses[-1] < 0.05, losses


def test_config_holds_every_key_and_makes_the_network_again() -> None:
    for config in TINIES.values():
        model = UNet2DModel(**config)
        assert len(model.config) == 28
        again = UNet2DModel(**json.loads(json.dumps(model.config)))
        assert again.config == model.config
        assert {k: p.shape for k, p in again.parameters().items()} == {
            k: p.shape for k, p in model.parameters().items()
        }
    tuples = UNet2DModel(**{**TINIES["plain"], "sample_size": (4, 8), "block_out_channels": (4, 8)})
    assert (tuples.config["sample_size"], tuples.config["block_out_channels"]) == ([4, 8], [4, 8])


def test_every_way_to_say_when_and_what(backend: Backend) -> None:
    model = model_of(TINIES["plain"], backend)
    x = backend.from_numpy(inputs(model.config, 2, (4, 4))["x"])
    expected = backend.to_numpy(model(x, [7, 7], [2, 2]))
    for time in (7, 7.0, np.int64(7), (7, 7), np.asarray([7, 7]), backend.from_numpy(np.asarray([7.0, 7.0]))):
        np.testing.assert_array_equal(backend.to_numpy(model(x, time, labels=2)), expected)
    assert tuple(model(x[:0, ...], 7, 2).shape) == (0, 3, 4, 4)


def test_guidance_reaches_it() -> None:
    model = model_of(TINIES["plain"])
    assert model.null_label == 9
    assert [UNet2DModel(**TINIES[name]).null_label for name in ("filtered", "scale and shift")] == [
        None,
        None,
    ]
    given = inputs(model.config, 2, (4, 4))
    x, t, labels = given["x"], given["t"], given["labels"]
    guided = classifier_free_guidance(model, labels, model.null_label, 3.0)(x, t)
    c, u = model(x, t, labels), model(x, t, 9)
    np.testing.assert_allclose(guided, u + 3 * (c - u), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"time_embedding_type": "learned", "num_train_timesteps": 1000}])
def test_it_fits_the_diffusion_process(options: dict[str, Any]) -> None:
    model = UNet2DModel(**{**TINY, **PLAIN, "num_class_embeds": 4, "dropout": 0.5, **options})
    diffusion, rng = GaussianDiffusion(), Generator(8)
    clean, labels = rng.normal((3, 3, 4, 4)), np.asarray([0, 1, 3])

    def loss(seed: int) -> Any:
        told = partial(model, rng=Generator(seed))  # with dropout
        return diffusion.loss(told, clean, Generator(9), labels=labels, null_label=model.null_label)

    value, grads = value_and_grad(loss, model)(1)
    assert all(np.isfinite(g).all() for g in grads.values())
    assert loss(1) == value != loss(2)
    images = diffusion.sample(model, (2, 3, 4, 4), labels=[1, 2], guidance=2.0, steps=3, rng=rng)
    assert images.shape == (2, 3, 4, 4)
    assert np.isfinite(images).all()


def test_filters(backend: Backend) -> None:
    """Against the same filter as a convolution of each channel, and its transpose."""
    x = Generator(1, backend).normal((2, 3, 6, 8))
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    weight = np.zeros((3, 1, 4, 4), np.float32) + taps.astype(np.float32)
    down = ops.conv2d(x, backend.from_numpy(weight), stride=2, padding=1, groups=3)
    up = ops.conv_transpose2d(x, backend.from_numpy(4 * weight), stride=2, padding=1, groups=3)
    for y, expected in ((fir_downsample2d(x), down), (fir_upsample2d(x), up)):
        np.testing.assert_allclose(backend.to_numpy(y), backend.to_numpy(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["positional", "fourier", "learned"])
def test_random_frequencies_are_not_trained(kind: str) -> None:
    model = model_of({**TINY, **PLAIN, "time_embedding_type": kind, "num_train_timesteps": 10})
    left_out = set(model.parameters()) - set(model.trained_parameters())
    assert left_out == ({"time_proj.weight"} if kind == "fourier" else set())
    assert any(name.startswith("time_proj.") for name in model.parameters()) == (kind != "positional")


def test_fourier_features(backend: Backend) -> None:
    features = nn.time.FourierFeatures(5, rng=Generator(2, backend))
    frequencies = backend.to_numpy(features.weight.data).astype("float64")
    assert 4 < np.abs(frequencies).max() < 80
    levels = np.asarray([0.01, 1.0, 300.0])
    angles = 2 * np.pi * np.log(levels)[:, None] * frequencies
    y = features(backend.from_numpy(levels))
    assert y.dtype == backend.xp.float32
    np.testing.assert_allclose(
        backend.to_numpy(y), np.concatenate([np.sin(angles), np.cos(angles)], axis=1), rtol=0, atol=1e-7
    )


def test_old_names() -> None:
    weights = dict.fromkeys(
        ("mid_block.attentions.0.query.bias", "mid_block.attentions.0.proj_attn.weight"), 1
    )
    names = ["mid_block.attentions.0.to_q.bias", "mid_block.attentions.0.to_out.0.weight"]
    assert list(UNet2DModel.renamed({**weights, "key.weight": 2})) == [*names, "key.weight"]
