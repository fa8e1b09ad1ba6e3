"""Every sampler made from the configuration of every other: the options and the steps that diffusers' classes take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from minidiff.diffusion import SAMPLER_FAMILIES, DDIMInverse, Sampler
from minidiff.diffusion.samplers.configuration import NETWORK_OPTIONS
from tests import scheduler_loop
from tests.interop import diffusers_loop
from tests.interop.published_configurations import DIFFUSERS_REFUSES, PUBLISHED
from tests.interop.scheduler_cases import Case

STEPS = 6
FAMILIES = [set(family.values()) for family in SAMPLER_FAMILIES]
FAMILIES[0].add(DDIMInverse)  # which draws nothing, and has no name on command lines


def pairs() -> Iterator[Any]:
    """A sampler that diffusers has, and a configuration of its family."""
    for name, config in PUBLISHED.items():
        for family in FAMILIES:
            if config["_class_name"] in {cls.diffusers_name for cls in family}:
                for cls in sorted(family, key=lambda cls: cls.__name__):
                    if cls.diffusers_name.endswith("Scheduler"):
                        yield pytest.param(cls, name, id=f"{cls.__name__} from {name}")


def chosen(scheduler: Any) -> dict[str, Any]:
    """The options of diffusers' class; where null says nothing, what minidiff takes for it."""
    defaults = inspect.signature(type(scheduler).__init__).parameters
    options = {key: value for key, value in scheduler.config.items() if key in defaults}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}


def agree(sampler: Sampler, options: dict[str, Any]) -> None:
    """Whether a sampler has these options, or its own in place of null."""
    for key, value in options.items():
        own = getattr(sampler, key)
        own = list(own) if isinstance(own, tuple) else own
        default = getattr(type(sampler), key, None)
        assert own == value or (value is None and own in (False, default)), (key, own, value)


@pytest.mark.filterwarnings("ignore:.*the network was trained for .'rescale_betas_zero_snr'")
@pytest.mark.parametrize(("cls", "name"), list(pairs()))
def test_pair(cls: type[Sampler], name: str, tmp_path: Path) -> None:
    """By way of a file, there and back; the steps in float64, where diffusers' rounding is not in the way."""
    config, kind = PUBLISHED[name], cls.diffusers_name.removesuffix("Scheduler")
    theirs = diffusers_loop.find(kind)
    with diffusers_loop.quietly():
        first = diffusers_loop.find(config["_class_name"].removesuffix("Scheduler")).from_config(config)
        first.save_config(tmp_path / "theirs")
        if (kind, name) in DIFFUSERS_REFUSES:
            with pytest.raises((ValueError, NotImplementedError)):
                theirs.from_pretrained(tmp_path / "theirs").set_timesteps(STEPS)
            cls.from_config(tmp_path / "theirs").set_timesteps(STEPS)
            return
        options = chosen(theirs.from_pretrained(tmp_path / "theirs"))
        live = chosen(theirs.from_config(first.config))
    sampler = cls.from_config(tmp_path / "theirs")
    agree(sampler, options)
    sampler.save_config(tmp_path / "ours")
    with diffusers_loop.quietly():
        agree(sampler, chosen(theirs.from_pretrained(tmp_path / "ours")))
    ours = Sampler.from_config({**config})
    agree(cls.from_config(ours.config), {k: v for k, v in live.items() if k not in NETWORK_OPTIONS})
    agree(cls.from_config(first.config), live)
    timesteps = {"mu": 0.7} if options.get("use_dynamic_shifting") else {}
    case = Case(kind, options, STEPS, timesteps)
    expected = diffusers_loop.run(case, double=True)
    says = scheduler_loop.kind(kind, options)
    got = scheduler_loop.run_sampler(sampler, says, STEPS, timesteps, dtype=np.float64)
    np.testing.assert_allclose(got[0], expected[0], rtol=0, atol=1e-4)
    assert np.isfinite(expected[1]).all()
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6, atol=2e-6)
    start = float(getattr(diffusers_loop.make(case), "init_noise_sigma", 1.0))
    assert sampler.init_noise_sigma == pytest.approx(start, rel=1e-3)
