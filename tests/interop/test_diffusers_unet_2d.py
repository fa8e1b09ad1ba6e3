"""`UNet2DModel` against diffusers': names, counts, outputs, gradients, and folders that either can read."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidiff.models import UNet2DModel
from minidiff.random import Generator
from tests.unet_2d_configurations import CASES, inputs

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from tests.interop.unet_2d_comparison import (  # noqa: E402
    compare,
    distance,
    loaded,
    our_answer,
    their_answer,
    theirs,
    weights_of,
)

FULL = [name for name, case in CASES.items() if case.small]


def bits(weights: Any) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in weights.items()}


@pytest.mark.parametrize("name", CASES)
def test_small(name: str) -> None:
    found = compare(CASES[name], small=True)
    assert found["output"] < 1e-5
    assert found["gradients"] < 1e-3


@pytest.mark.parametrize("name", FULL)
def test_full(name: str) -> None:
    found = compare(CASES[name], small=False)
    assert CASES[name].published in (None, found["parameters"])
    assert found["output"] < 1e-4
    assert CASES[name].huge or found["gradients"] < 1e-3


@pytest.mark.parametrize("name", CASES)
def test_round_trip(name: str) -> None:
    """Diffusers -> minidiff -> diffusers -> minidiff, bit by bit."""
    config = CASES[name].small_config
    model = theirs(config)
    mine = UNet2DModel(**config)
    mine.load_state_dict(weights_of(model))
    back = loaded(theirs(config, seed=1), mine.state_dict())
    again = UNet2DModel(**config, rng=Generator(1))
    again.load_state_dict(weights_of(back))
    assert bits(again.state_dict()) == bits(weights_of(back)) == bits(weights_of(model))
    assert mine.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("name", CASES)
def test_folders(name: str, tmp_path: Path) -> None:
    """A folder of minidiff in diffusers, and of diffusers in minidiff; nothing about the network is lost."""
    case = CASES[name]
    mine = UNet2DModel(**case.small_config)
    mine.save_pretrained(tmp_path / "ours")
    model = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours").eval()
    assert bits(weights_of(model)) == bits(mine.state_dict())
    given = inputs(mine.config, 3, case.side)
    assert distance(our_answer(mine, given), their_answer(model, given).detach().numpy()) < 1e-5
    model.save_pretrained(tmp_path / "theirs")
    again = UNet2DModel.from_pretrained(tmp_path / "theirs")
    assert again.config == mine.config
    assert {
        key: _listed(value) for key, value in model.config.items() if not key.startswith("_")
    } == mine.config
    assert bits(again.state_dict()) == bits(mine.state_dict())


def test_defaults_are_diffusers() -> None:
    ours, theirs = (
        inspect.signature(kind.__init__).parameters for kind in (UNet2DModel, diffusers.UNet2DModel)
    )
    assert [(key, ours[key].default) for key in ours if key != "rng"] == [
        (k, p.default) for k, p in theirs.items()
    ]


def test_old_names_of_attention() -> None:
    model = theirs(CASES["every way to resize"].small_config)
    old = {}
    for name, value in model.state_dict().items():
        for today, before in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            name = name.replace(f".{today}.", f".{before}.")
        old[name] = value
    assert sum(name.endswith("query.weight") for name in old) == 11
    renamed = UNet2DModel.renamed(old)
    assert {name: id(value) for name, value in renamed.items()} == {
        name: id(value) for name, value in model._fix_state_dict_keys_on_load(dict(old)).items()
    }
    assert set(renamed) == set(model.state_dict())


def test_labels_are_needed_as_in_diffusers() -> None:
    case = CASES["labels"]
    given = inputs(case.config, 2, case.side)
    del given["labels"]
    for call in (
        lambda: our_answer(UNet2DModel(**case.config), given),
        lambda: their_answer(theirs(case.config), given),
    ):
        with pytest.raises(ValueError, match="class"):
            call()


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
