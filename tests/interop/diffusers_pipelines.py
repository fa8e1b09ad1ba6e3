"""Pipelines of diffusers on the noise of minidiff.

python -m tests.interop.diffusers_pipelines           writes what they draw to tests/references/pipelines.npz
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch

from minidiff.diffusion import DDIM
from minidiff.pipelines import save_pipeline
from minidiff.pipelines.noise import NoisePerImage
from tests.interop.diffusers_loop import quietly
from tests.pipelines_reference import IMAGES, SAMPLERS, SMALL, STEPS, calm_pipeline, generators

MODULES = (
    "pipelines.ddpm.pipeline_ddpm",
    "pipelines.ddim.pipeline_ddim",
    "schedulers.scheduling_ddpm",
    "schedulers.scheduling_ddim",
)


@contextmanager
def our_noise(count: int) -> Iterator[None]:
    """Diffusers draws what minidiff draws."""
    rng = NoisePerImage(generators(count))

    def draw(shape: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
        return torch.from_numpy(rng.normal(tuple(shape))).to(dtype)

    modules = [import_module(f"diffusers.{name}") for name in MODULES]
    originals = [module.randn_tensor for module in modules]
    try:
        for module in modules:
            module.randn_tensor = draw
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.randn_tensor = original


def their_images(folder: Path, *, count: int, steps: int, **options: Any) -> np.ndarray[Any, Any]:
    """What the pipeline in a folder draws: (count, C, H, W) in [-1, 1]."""
    with quietly(), our_noise(count), mock.patch.dict("os.environ", HF_HUB_OFFLINE="1"):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(batch_size=count, num_inference_steps=steps, output_type="np", **options).images
    return np.asarray(images).transpose(0, 3, 1, 2) * 2 - 1


def main() -> None:
    """Write the references."""
    images = {}
    for name, sampler in SAMPLERS.items():
        with tempfile.TemporaryDirectory() as folder:
            save_pipeline(calm_pipeline(sampler, SMALL), folder)
            options = {"eta": sampler.eta} if isinstance(sampler, DDIM) else {}
            images[name] = their_images(Path(folder), count=2, steps=STEPS, **options)
    np.savez_compressed(IMAGES, **images)
    print(
        f"{IMAGES}: {IMAGES.stat().st_size / 1e3:.0f} KB, diffusers {diffusers.__version__}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
