"""What GaussianDiffusion, EDM, flow matching and the variational bound have in common: dropout and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.diffusion import EDM, FlowMatching, GaussianDiffusion, NoiseSchedule, VariationalBound
from minidiff.models import UNet2DModel
from minidiff.random import Generator
from tests.normal_images import images

# --- dropout


class Dropping:
    """A network with dropout, which remembers the generators that it was given."""

    def __init__(self, probability: float, channels: int = 1) -> None:
        self.config, self.channels = {"dropout": probability}, channels
        self.seen: list[Any] = []

    def __call__(self, x: Any, t: Any, labels: Any = None, *, rng: Any = None) -> Any:
        self.seen.append(rng)
        return ops.concat([x] * self.channels, axis=1)


@pytest.mark.parametrize(
    "objective", [GaussianDiffusion(), EDM(), FlowMatching(), VariationalBound()], ids=repr
)
@pytest.mark.parametrize("labels", [None, np.arange(4)])
def test_dropout_is_turned_on_in_training(objective: Any, labels: Any) -> None:
    channels = 2 if isinstance(objective, VariationalBound) else 1
    x0, rng = np.clip(images(0), -1, 1), Generator(0)
    dropping, keeping = Dropping(0.5, channels), Dropping(0.0, channels)
    for model in (dropping, keeping):
        objective.loss(model, x0, rng, labels=labels)
    assert dropping.seen == [rng]
    assert keeping.seen == [None]
    keeping.config = object()  # type: ignore[assignment]
    objective.loss(keeping, x0, rng, labels=labels)
    assert keeping.seen == [None] * 2  # what a network of others calls its configuration says nothing
    if channels == 2:
        VariationalBound(NoiseSchedule(3)).bound(dropping, x0, rng)
        assert dropping.seen[1:] == [None] * 3  # what a network says is asked without


def test_dropout_of_a_unet_in_training_and_not_in_sampling() -> None:
    small: dict[str, Any] = {
        "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [8], "layers_per_block": 1,
        "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "norm_num_groups": 4,
    }  # fmt: skip
    with_it, without = (UNet2DModel(**small, dropout=p, rng=Generator(1)) for p in (0.5, 0.0))
    x0, process = images(0, (4, 3, 8, 8)), GaussianDiffusion()
    losses = [float(process.loss(model, x0, Generator(2))) for model in (with_it, with_it, without)]
    assert losses[0] == losses[1] != losses[2]
    drawn = [process.sample(m, (1, 3, 8, 8), steps=2, rng=Generator(3)) for m in (with_it, without)]
    np.testing.assert_array_equal(*drawn)


# --- labels


@pytest.mark.parametrize("objective", [EDM, FlowMatching, VariationalBound])
def test_labels_reach_the_model_and_some_are_hidden(objective: Any) -> None:
    seen: list[Any] = []

    def model(x: Any, t: Any, *, labels: Any) -> Any:
        seen.append(labels)
        return ops.concat([x, x], axis=1) if objective is VariationalBound else x

    labels, x0 = np.arange(400) % 10, np.clip(images(0, (400, 1, 2, 2)), -1, 1)
    objective().loss(model, x0, Generator(0), labels=labels)
    np.testing.assert_array_equal(seen.pop(), labels)
    objective(null_probability=0.2).loss(model, x0, Generator(0), labels=labels, null_label=10)
    assert 40 < (seen.pop() == 10).sum() < 120
    with pytest.raises(ValueError, match=r"null_probability=0\.2 needs labels and a null_label"):
        objective(null_probability=0.2).loss(model, x0, Generator(0), labels=labels)
