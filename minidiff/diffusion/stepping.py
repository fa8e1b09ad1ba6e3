"""What all samplers share: which timesteps they visit, and what they make of the network's output.

The names are those of diffusers, and so is the way of use: `set_timesteps(n)`, then one `step` for each of
`timesteps`. Every coefficient is a Python float, so that no step waits for a GPU.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff import ops
from minidiff.backend import Array
from minidiff.diffusion.coefficients import Timesteps
from minidiff.diffusion.draws import noise_like
from minidiff.diffusion.prediction import find_prediction
from minidiff.diffusion.schedule import NoiseSchedule
from minidiff.random import Generator

__all__ = ["SPACINGS", "Sampler", "Step"]

SPACINGS: dict[str, Callable[[int, int], NDArray[Any]]] = {  # of (T, n): n timesteps, descending
    "leading": lambda T, n: np.arange(n)[::-1] * (T // n),
    "trailing": lambda T, n: np.round(np.arange(T, 0, -T / n))[:n] - 1,  # rounding may make it n + 1 long
    "linspace": lambda T, n: np.round(np.linspace(0, T - 1, n))[::-1],
}


@dataclass(frozen=True, eq=False)
class Step:
    """What a step returns.

    Attributes
    ----------
    prev_sample : array, shape (N, C, H, W)
        The image at the next timestep of the loop, with less noise.
    pred_original_sample : array, shape (N, C, H, W)
        The clean image as the network sees it now.
    """

    prev_sample: Array
    pred_original_sample: Array


class Sampler:
    """Options and state of every sampler; a sampler itself is the method `step`.

    Parameters
    ----------
    schedule : NoiseSchedule, optional
        The one the network was trained with. Its fields may be given as keywords in its place.
    prediction_type : "epsilon", "sample" or "v_prediction"
        What the network's output means.
    clip_sample : bool
        Limit the predicted clean image to [-clip_sample_range, clip_sample_range] in every step.
    clip_sample_range : float
    timestep_spacing : "leading", "trailing" or "linspace"
        Which n of the T timesteps are visited (table 2 of [1]_): T // n apart from 0 up; T / n apart from
        T - 1 down; or evenly from T - 1 to 0. Only the last two begin at T - 1, where the noise is strongest.
    steps_offset : int
        Added to every timestep of "leading".

    Attributes
    ----------
    timesteps : list of int
        Descending; empty before `set_timesteps`.
    init_noise_sigma : float
        Standard deviation of the noise that sampling begins with.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of its range.

    References
    ----------
    .. [1] Lin, Liu, Li, Yang, "Common diffusion noise schedules and sample steps are flawed", 2023,
       arXiv:2305.08891.
    """

    init_noise_sigma = 1.0

    def __init__(
        self,
        schedule: NoiseSchedule | None = None,
        *,
        prediction_type: str = "epsilon",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        **schedule_fields: Any,
    ) -> None:
        if timestep_spacing not in SPACINGS:
            raise ValueError(f"timestep_spacing must be one of {list(SPACINGS)}, got {timestep_spacing!r}")
        if not clip_sample_range > 0 or steps_offset < 0:
            raise ValueError(
                f"clip_sample_range must be above 0 and steps_offset at least 0, "
                f"got {clip_sample_range} and {steps_offset}"
            )
        self.schedule = _only_schedule(type(self).__name__, schedule, schedule_fields)
        self.prediction_type = prediction_type
        self.clip_sample = clip_sample
        self.clip_sample_range = clip_sample_range
        self.timestep_spacing = timestep_spacing
        self.steps_offset = steps_offset
        self.timesteps: list[int] = []
        self._prediction = find_prediction(prediction_type)

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps the network was trained on."""
        return self.schedule.num_train_timesteps

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose how many steps sampling takes, 1 to `num_train_timesteps`, before the first `step`."""
        n, total = operator.index(num_inference_steps), self.num_train_timesteps
        if not 1 <= n <= total:
            raise ValueError(f"{self!r}: {n} steps are not from 1 to the {total} timesteps of training")
        offset = self.steps_offset if self.timestep_spacing == "leading" else 0
        timesteps = [int(t) + offset for t in SPACINGS[self.timestep_spacing](total, n)]
        if timesteps[0] >= total:
            raise ValueError(
                f"{self!r}: with steps_offset={offset}, {n} steps begin at timestep {timesteps[0]}, "
                f"past the last one, {total - 1}; take fewer steps or no offset"
            )
        self.timesteps = timesteps

    def scale_model_input(self, sample: Array, timestep: int) -> Array:
        """What the network shall see in place of `sample`: here `sample` itself."""
        return sample

    def add_noise(self, x0: Array, noise: Array, timesteps: Timesteps) -> Array:
        """The forward process; see `NoiseSchedule.add_noise`."""
        return self.schedule.add_noise(x0, noise, timesteps)

    def step(
        self, model_output: Array, timestep: int, sample: Array, *, rng: Generator | None = None
    ) -> Step:
        """Go from `timestep` to the next one of `timesteps`, or from the last one to the clean image.

        Parameters
        ----------
        model_output : array, shape (N, C, H, W)
            What the network said of `sample`.
        timestep : int
            One of `timesteps`.
        sample : array, shape (N, C, H, W)
            The noisy image at `timestep`.
        rng : Generator, optional
            Draws the noise of samplers that add some.

        Returns
        -------
        Step

        Raises
        ------
        ValueError
            If `timestep` is none of `timesteps`, or noise is to be added without `rng`.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.schedule}, prediction_type={self.prediction_type!r})"

    def _alpha_bars(self, timestep: int, *, final: float = 1.0) -> tuple[float, float]:
        """alpha_bar at `timestep` and at the next one of the loop; after the last one it is `final`."""
        if not self.timesteps:
            raise ValueError(f"{type(self).__name__}.step: call set_timesteps(n) before the first step")
        t = operator.index(timestep)
        if t not in self.timesteps:
            raise ValueError(
                f"{type(self).__name__}.step: timestep {t} is none of the {len(self.timesteps)} "
                f"that set_timesteps chose, from {self.timesteps[0]} down to {self.timesteps[-1]}"
            )
        alpha_bar, i = self.schedule.alphas_cumprod, self.timesteps.index(t)
        last = i + 1 == len(self.timesteps)
        return float(alpha_bar[t]), final if last else float(alpha_bar[self.timesteps[i + 1]])

    def _sample_and_noise(self, model_output: Array, x_t: Array, alpha_bar: float) -> tuple[Array, Array]:
        """The predicted clean image, clipped, and noise, which as in diffusers clipping does not change."""
        alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        x0, noise = self._prediction.sample_and_noise(model_output, x_t, alpha, sigma)
        if self.clip_sample:
            x0 = ops.clip(x0, -self.clip_sample_range, self.clip_sample_range)
        return x0, noise

    def _noise(self, rng: Generator | None, sample: Array) -> Array:
        if rng is None:
            raise ValueError(
                f"{type(self).__name__}.step adds noise: pass rng=minidiff.random.Generator(seed, device=...)"
            )
        return noise_like(rng, sample)


def _only_schedule(name: str, schedule: NoiseSchedule | None, options: dict[str, Any]) -> NoiseSchedule:
    known = {field.name for field in fields(NoiseSchedule)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(f"{name}: unknown options {unknown}")
    if schedule is None:
        return NoiseSchedule(**options)
    if not isinstance(schedule, NoiseSchedule) or options:
        raise TypeError(
            f"{name}: give a NoiseSchedule, or its fields as keywords, not {schedule!r} and {options}"
        )
    return schedule
