"""Every sampler beside diffusers: the table of `scheduler_cases`, each step and the end of a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from minidiff.diffusion.samplers import Sampler
from tests import scheduler_loop
from tests.interop import diffusers_loop
from tests.interop.scheduler_cases import CASES, Case

CONFIGURATIONS = list({case.name: case for case in CASES if case.options and not case.timesteps}.values())


def deviation(ours: list[Any], theirs: list[Any]) -> float:
    """The largest over all steps, relative to the image where that exceeds 1."""
    return max(
        float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in zip(ours, theirs, strict=True)
    )


def both(case: Case, *, double: bool) -> tuple[tuple[list[float], list[Any]], tuple[list[float], list[Any]]]:
    options = {**case.options, **case.step}
    dtype = np.float64 if double else np.float32
    ours = scheduler_loop.run(case.name, options, case.steps, case.timesteps, dtype=dtype)
    return ours, diffusers_loop.run(case, double=double)


def test_the_cases_differ() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_diffusers(case: Case) -> None:
    """In float32 within 1e-4; in float64, which leaves only the timesteps rounded to float32, within 1e-6."""
    for double, tolerance, timestep in ((False, case.tolerance, 0.01), (True, 1e-6, 1e-4)):
        (our_times, ours), (their_times, theirs) = both(case, double=double)
        np.testing.assert_allclose(our_times, their_times, rtol=0, atol=timestep)
        assert deviation(ours, theirs) < tolerance


@pytest.mark.parametrize("case", CONFIGURATIONS, ids=str)
def test_configuration_round_trip(case: Case, tmp_path: Path) -> None:
    """Diffusers -> minidiff -> diffusers: the same options, and so the same steps, bit for bit."""
    scheduler = diffusers_loop.make(case)
    scheduler.save_config(tmp_path / "theirs")
    sampler = Sampler.from_config(tmp_path / "theirs")
    assert sampler.diffusers_name == type(scheduler).__name__
    sampler.save_config(tmp_path / "ours")
    with diffusers_loop.quietly():
        again = type(scheduler).from_pretrained(tmp_path / "ours")
    theirs, back = ({k: v for k, v in s.config.items() if not k.startswith("_")} for s in (scheduler, again))
    assert back == theirs
    first, second = (diffusers_loop.run(case, scheduler=s) for s in (scheduler, again))
    assert first[0] == second[0]
    assert all((a == b).all() for a, b in zip(first[1], second[1], strict=True))
