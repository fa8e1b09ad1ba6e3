"""group_norm, layer_norm and rms_norm: the CUDA kernels against the generic rules in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff.backend import Backend
from minidiff_cupy import normalization
from minidiff_cupy.normalization import group_norm, layer_norm, rms_norm
from tests import simt
from tests.simt_comparison import compare, normal, on_device, run

ACTIVATIONS = (None, "silu")


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no group fit into registers, and split those of more than a few rows."""
    monkeypatch.setattr(normalization, "_HELD", ())
    monkeypatch.setattr(normalization, "_HELD_TWICE", ())
    monkeypatch.setattr(normalization, "_SPLIT_THREADS", 8)


def check_group_norm(
    backend: Backend, *shape: int, groups: int, dtype: str = "float32", **options: Any
) -> Any:
    mean, layout = options.pop("mean", 0.0), options.pop("layout", "C")
    x = normal(*shape, dtype=dtype, layout=layout, mean=mean)
    weight, bias = (normal(shape[1], dtype=dtype, seed=i) for i in (2, 3))
    return compare(
        backend, group_norm, "group_norm", x, weight, bias, groups=groups, layout=layout, **options
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", ["C", "channels last", "strided"])
def test_a_group_in_registers(simt_backend: Backend, layout: str, activation: str | None) -> None:
    check_group_norm(simt_backend, 2, 16, 5, 7, groups=2, layout=layout, activation=activation)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(simt_backend: Backend, dtype: str) -> None:
    check_group_norm(
        simt_backend, 2, 16, 5, 7, groups=2, dtype=dtype, layout="channels last", activation="silu"
    )


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_in_splits(simt_backend: Backend, dtype: str) -> None:
    check_group_norm(
        simt_backend, 2, 16, 9, 9, groups=2, dtype=dtype, layout="channels last", activation="silu"
    )


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "groups"), [((2, 16, 9, 9), 2), ((3, 8, 1, 1), 2)])
def test_a_group_in_splits(
    simt_backend: Backend, shape: tuple[int, ...], groups: int, activation: str | None
) -> None:
    check_group_norm(simt_backend, *shape, groups=groups, layout="channels last", activation=activation)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((3, 6, 3, 5), 2),
        ((2, 20, 4, 4), 2),
        ((1, 1, 1, 1), 1),
        ((2, 12), 3),
        ((2, 3, 41), 1),
        ((2, 4, 2, 3, 2), 2),
    ],
    ids=str,
)
def test_ragged_shapes(simt_backend: Backend, shape: tuple[int, ...], groups: int) -> None:
    check_group_norm(simt_backend, *shape, groups=groups, activation="silu")


def test_several_rows_to_a_thread(simt_backend: Backend) -> None:
    check_group_norm(simt_backend, 1, 4, 23, 29, groups=1, activation="silu")  # 667 vectors: 4 rows each
    check_group_norm(simt_backend, 1, 3, 15, 20, groups=1, activation="silu")  # a thread of the block is idle


def test_an_image_too_large_for_registers(simt_backend: Backend) -> None:
    check_group_norm(simt_backend, 1, 1, 65, 64, groups=1, activation="silu")  # its gradient is


@pytest.mark.parametrize("missing", ["weight", "bias", "both"])
def test_without_weight_or_bias(simt_backend: Backend, missing: str) -> None:
    weight = None if missing in ("weight", "both") else normal(16)
    bias = None if missing in ("bias", "both") else normal(16, seed=2)
    x = normal(2, 16, 3, 3)
    compare(simt_backend, group_norm, "group_norm", x, weight, bias, groups=2, activation="silu")


def test_large_mean(simt_backend: Backend) -> None:
    check_group_norm(simt_backend, 2, 16, 9, 9, groups=2, mean=1000.0, activation="silu")


@pytest.mark.usefixtures("split")
def test_large_mean_in_splits(simt_backend: Backend) -> None:
    check_group_norm(simt_backend, 2, 16, 9, 9, groups=2, mean=1000.0, activation="silu")


@pytest.mark.parametrize("splits", [False, True])
def test_the_first_number_stands_out(
    simt_backend: Backend, splits: bool, request: pytest.FixtureRequest
) -> None:
    if splits:
        request.getfixturevalue("split")
    x = normal(2, 16, 9, 9)
    x[:, 0, 0, 0] = 300.0
    compare(
        simt_backend, group_norm, "group_norm", x, normal(16), normal(16, seed=2), groups=2, activation="silu"
    )


def test_groups_far_apart(simt_backend: Backend) -> None:
    x = normal(2, 16, 5, 5)
    x[:, :8] += 20000
    compare(simt_backend, group_norm, "group_norm", x, normal(16), normal(16, seed=2), groups=2)


def test_images_take_turns(simt_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "_HIGHEST", 2)
    monkeypatch.setattr(normalization, "_RESIDENT", 64)
    check_group_norm(simt_backend, 5, 16, 3, 3, groups=2, activation="silu")


@pytest.mark.usefixtures("split")
def test_images_in_splits_take_turns(simt_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "_HIGHEST", 2)
    monkeypatch.setattr(normalization, "_RESIDENT", 64)
    check_group_norm(simt_backend, 5, 16, 9, 9, groups=2, activation="silu")


def test_memory_that_is_not_aligned(simt_backend: Backend) -> None:
    memory = normal(2 * 3 * 3 * 16 + 1)
    x = memory[1:].reshape(2, 3, 3, 16).transpose(0, 3, 1, 2)
    y = compare(simt_backend, group_norm, "group_norm", x, normal(16), normal(16), groups=2)[0]
    aligned = compare(simt_backend, group_norm, "group_norm", x.copy(), normal(16), normal(16), groups=2)[0]
    np.testing.assert_allclose(y, aligned, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_layer_norm(simt_backend: Backend, dtype: str) -> None:
    x, weight, bias = (normal(*shape, dtype=dtype, seed=4) for shape in ((100, 33), (33,), (33,)))
    compare(simt_backend, layer_norm, "layer_norm", x, weight, bias)


def test_layer_norm_over_several_axes(simt_backend: Backend) -> None:
    x, weight, bias = normal(3, 2, 6, 8), normal(6, 8), normal(6, 8, seed=2)
    compare(simt_backend, layer_norm, "layer_norm", x, weight, bias, axis=(-1, -2), eps=0.1)


def test_layer_norm_of_wide_rows(simt_backend: Backend) -> None:
    x, weight, bias = normal(2, 301), normal(301), normal(301, seed=2)
    compare(simt_backend, layer_norm, "layer_norm", x, weight, bias)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_rms_norm(simt_backend: Backend, mean: float) -> None:
    compare(simt_backend, rms_norm, "rms_norm", normal(2, 3, 64, mean=mean), normal(64))


@pytest.mark.usefixtures("split")
def test_rms_norm_in_splits(simt_backend: Backend) -> None:
    compare(simt_backend, rms_norm, "rms_norm", normal(2, 3, 64, mean=3.0), normal(64))


@pytest.mark.parametrize("splits", [False, True])
def test_bits_do_not_depend_on_the_order_of_threads(splits: bool, request: pytest.FixtureRequest) -> None:
    if splits:
        request.getfixturevalue("split")
    backend = simt.backend()
    results = []
    for schedule in simt.SCHEDULES:
        with simt.schedule(schedule):
            results.append(check_group_norm(backend, 3, 16, 9, 9, groups=2, activation="silu"))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "x",
    [normal(2, 4, 3).astype(np.float64), normal(0, 4, 3), normal(2, 4, 0), normal(1, 4098)],
    ids=["float64", "no image", "no pixel", "too wide"],
)
def test_the_rest_is_left_to_the_generic_rule(x: Any) -> None:
    backend = simt.backend()
    given = on_device(backend, x)
    assert run(group_norm, "group_norm", backend.xp, (given, None, None), {"groups": 1}) is NotImplemented
