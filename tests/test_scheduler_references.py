"""Every sampler against stored numbers of diffusers; tests/interop/write_scheduler_references.py made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scheduler_loop import checksum, run

PATH = Path(__file__).parent / "references" / "schedulers.json"
REFERENCES = json.loads(PATH.read_text(encoding="utf-8"))


def label(case: dict[str, Any]) -> str:
    options = {**case["options"], **case["set_timesteps"]}
    words = [f"{key}={'...' if isinstance(v, list) else v}" for key, v in options.items()]
    return " ".join([case["name"], *words, f"{case['steps']} steps"])


def test_the_versions_are_named() -> None:
    assert set(REFERENCES) == {"diffusers", "torch", "cases"}


@pytest.mark.parametrize("case", REFERENCES["cases"], ids=label)
def test_as_stored(case: dict[str, Any]) -> None:
    timesteps, images = run(
        case["name"], case["options"], case["steps"], case["set_timesteps"], dtype=np.float64
    )
    np.testing.assert_allclose(timesteps, case["timesteps"], rtol=0, atol=2e-4)
    scale = max(1.0, float(np.abs(case["end"]).max()))
    for image, expected in zip(images, case["checksums"], strict=True):
        assert abs(checksum(image) - expected) < 1e-5 * max(1.0, float(np.abs(image).max()))
    np.testing.assert_allclose(images[-1].ravel(), case["end"], rtol=0, atol=1e-6 * scale)
