"""Sampling from consistency models in a few steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.samplers.discrete import DiscreteSampler
from minidiff.diffusion.samplers.sampler import Draw, Step, mix

__all__ = ["LCM"]

SIGMA_DATA = 0.5


@dataclass(kw_only=True, eq=False, repr=False)
class LCM(DiscreteSampler):
    """Latent consistency models: jump to the clean image, then back to a lower noise (algorithm 3 of [1]_).

    Parameters
    ----------
    schedule, **options
        See `DiscreteSampler`; timestep_spacing and steps_offset have no effect here, nor in diffusers.
    original_inference_steps : int
        How many timesteps, evenly spread, the model was distilled at; n of these are visited.
    timestep_scaling : float
        How steeply the boundary condition c_skip, c_out rises with t.
    set_alpha_to_one : bool
        Read for diffusers' sake; the last step leads to the clean image.
    clip_sample, clip_sample_range, thresholding, dynamic_thresholding_ratio, sample_max_value
        Limits on the predicted clean image; see `DDPM`.
    rescale_betas_zero_snr : bool
        See `NoiseSchedule`.

    References
    ----------
    .. [1] Luo, Tan, Huang, Li, Zhao, "Latent consistency models: synthesizing high-resolution images with few-step
       inference", 2023, arXiv:2310.04378.
    """

    diffusers_name: ClassVar[str] = "LCMScheduler"

    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    set_alpha_to_one: bool = True
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.original_inference_steps <= self.num_train_timesteps:
            raise ValueError(
                f"LCM: original_inference_steps must be from 1 to {self.num_train_timesteps}, "
                f"got {self.original_inference_steps}"
            )

    def _spaced(self, n: int) -> NDArray[np.float64]:
        original = self.original_inference_steps
        if not 1 <= n <= original:
            raise ValueError(f"{self!r}: {n} steps are not from 1 to original_inference_steps={original}")
        stride = self.num_train_timesteps // original
        distilled = np.arange(original, 0, -1) * stride - 1
        chosen: NDArray[np.float64] = distilled[
            np.linspace(0, original, n, endpoint=False).astype(int)
        ].astype(np.float64)
        return chosen

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        time = here.timestep * self.timestep_scaling
        total = time**2 + SIGMA_DATA**2
        denoised = mix((time / total**0.5, self._x0(y, x, here)), (SIGMA_DATA**2 / total, x))
        fresh: list[tuple[float, Array]] = [(there.sigma, draw())] if there.sigma > 0 else []
        return Step(mix((there.alpha, denoised), *fresh), denoised)
