"""What all samplers share: the points they visit, the place in that list, and what they make of the network's output.

A sampler is a list of `Point`s and the function `_advance` that goes from one to the next. The names are those of
diffusers, and so is the way of use: `set_timesteps(n)`, then one `step` for each of `timesteps`. Every coefficient is
a Python float, so that no step waits for a GPU.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from minidiff import ops
from minidiff.backend import Array, backend_of
from minidiff.diffusion.coefficients import Coefficient
from minidiff.diffusion.draws import noise_like
from minidiff.diffusion.points import Point
from minidiff.diffusion.prediction import Pair, find_prediction
from minidiff.diffusion.samplers.configuration import (
    NETWORK_OPTIONS,
    UNCHOSEN,
    read_options,
    write_options,
)
from minidiff.diffusion.samplers.limits import dynamic_threshold
from minidiff.ops.support import cast
from minidiff.random import Generator

__all__ = ["Draw", "Sampler", "Step", "mix"]

Draw: TypeAlias = Callable[[], Array]


@dataclass(frozen=True, eq=False)
class Step:
    """What a step returns.

    Attributes
    ----------
    prev_sample : array, shape (N, C, H, W)
        The image at the next point, with less noise.
    pred_original_sample : array, shape (N, C, H, W)
        The clean image as the network sees it now.
    """

    prev_sample: Array
    pred_original_sample: Array


def mix(*terms: tuple[float, Array]) -> Array:
    """The sum of number * array over pairs.

    An array that counts 0 is not looked at, and one that is alone and counts 1 is passed on as it is.
    """
    kept = [(float(c), x) for c, x in terms if c != 0] or [(0.0, terms[0][1])]
    if len(kept) == 1 and kept[0][0] == 1:
        return kept[0][1]
    coefficients, arrays = zip(*kept, strict=True)
    return ops.linear_combination(arrays, coefficients=coefficients)


@dataclass(kw_only=True, eq=False, repr=False)
class Sampler:
    """Options and state of every sampler; see the subclasses for those that can be used.

    A sampler remembers the steps of one run. Batches that take steps by turns need one each: `copy.copy(sampler)`.

    Parameters
    ----------
    num_train_timesteps : int
        T, the number of timesteps the network was trained on.

    Attributes
    ----------
    points : list of Point
        What `set_timesteps` chose, and at the end where the last step leads; empty before.
    timesteps : list of int or float
        Those of the points at which the network is asked.
    """

    num_train_timesteps: int = 1000

    diffusers_name: ClassVar[str] = ""  # the class whose numbers these are
    extras: ClassVar[frozenset[str]] = frozenset(  # that no file of diffusers holds
        {"eta", "use_clipped_model_output", "s_churn", "s_tmin", "s_tmax", "s_noise", "order"}
    )
    not_saved: ClassVar[frozenset[str]] = frozenset({"schedule"})
    calls_per_step: ClassVar[int] = 1  # with two, every second point lies inside a step

    # Options that some samplers have as fields, here as they are where there is no such option.
    prediction_type = "epsilon"
    clip_sample = False
    clip_sample_range = 1.0
    thresholding = False
    dynamic_thresholding_ratio = 0.995
    sample_max_value = 1.0

    _given = frozenset[str]()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Take note of the options that are given: a sampler made from this one takes over those alone."""
        sampler = super().__new__(cls)
        sampler._given = frozenset(options)
        return sampler

    def __post_init__(self) -> None:
        find_prediction(self.prediction_type)
        if not self.clip_sample_range > 0:
            raise ValueError(
                f"{type(self).__name__}: clip_sample_range must be above 0, got {self.clip_sample_range}"
            )
        if not 0 <= self.dynamic_thresholding_ratio <= 1 or not self.sample_max_value > 0:
            raise ValueError(
                f"{type(self).__name__}: dynamic_thresholding_ratio must lie in [0, 1] and sample_max_value must be "
                f"above 0, got {self.dynamic_thresholding_ratio} and {self.sample_max_value}"
            )
        self._of_others: dict[str, Any] = {}
        self.points: list[Point] = []
        self.timesteps: list[float] = []
        # What `_advance` remembers of the steps before; empty where a run begins.
        self.history: list[Any] = []
        self._next = 0

    # --- configuration

    @property
    def config(self) -> dict[str, Any]:
        """All options by name, and as `_class_name` the class of diffusers; `from_config` takes it.

        What another sampler does not take over, as each has its own, is listed in `_use_default_values`: options that
        nobody chose, but for the noise schedule and the meaning of the network's output. Options that another sampler
        was given, and this one does not have, are kept.
        """
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.not_saved}
        defaults = {f.name: f.default for f in fields(self)}
        unchosen = options.keys() - self._given - NETWORK_OPTIONS
        return {
            "_class_name": self.diffusers_name or type(self).__name__,
            **self._of_others,
            **options,
            UNCHOSEN: sorted(key for key in unchosen if options[key] == defaults[key]),
        }

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any], **options: Any) -> Self:
        """The sampler that a `scheduler_config.json` of diffusers describes.

        Called on `Sampler`, the file's `_class_name` decides the class; called on a sampler of a name, that one
        takes over the options which it has: `Heun.from_config(folder)`.

        Parameters
        ----------
        config : folder, file, or mapping
            A folder that holds `scheduler_config.json`, or `scheduler/scheduler_config.json`; such a file; or its
            content, or the `config` of another sampler.
        **options
            Take precedence over those of the file.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, it holds something else, or names a class that minidiff does not have.

        Warns
        -----
        UserWarning
            If there are options that no sampler knows, or that the network was trained for and this one does not have;
            they are listed.
        """
        chosen, known, others = read_options(cls, config)
        sampler: Self = chosen(**{**known, **options})
        sampler._of_others = others
        return sampler

    def save_config(self, folder: str | Path) -> Path:
        """Write `scheduler_config.json`, which `from_config` and diffusers read, into a folder; return its path.

        As there, it holds all of `config`, also the options that nobody chose: whoever reads the file takes them as
        chosen. Options that diffusers has not, or only in `step`, are in it if they are not at their defaults.
        """
        config = self.config
        left_out = {key for key in config.pop(UNCHOSEN) if key in self.extras}
        return write_options(
            {key: value for key, value in config.items() if key not in left_out}, Path(folder)
        )

    def __repr__(self) -> str:
        changed = [
            f"{f.name}={value!r}"
            for f in fields(self)
            if f.name not in self.not_saved and (value := getattr(self, f.name)) != f.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    # --- the way through the points

    @property
    def starts(self) -> list[int]:
        """Which of `timesteps` begin a whole step, so that a run may begin there."""
        return list(range(0, len(self.timesteps), self.calls_per_step))

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the noise that sampling begins with."""
        return 1.0

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose how many steps sampling takes, before the first `step`."""
        self._begin(self._plan(operator.index(num_inference_steps)))

    def set_begin_index(self, begin_index: int) -> None:
        """Say which of `timesteps` the next step is; unless it follows the last step, a run begins there.

        `step` finds its place by itself, but not where a run shall begin at the first of several equal timesteps.
        """
        if begin_index != self._next:
            self.history, self._next = [], begin_index

    def scale_model_input(self, sample: Array, timestep: float) -> Array:
        """What the network shall see in place of `sample`."""
        return sample

    def add_noise(self, x0: Array, noise: Array, timesteps: Any) -> Array:
        """A clean image with the noise of a point: alpha x_0 + sigma noise.

        Parameters
        ----------
        x0, noise : array, shape (N, C, H, W)
            Images, and standard normal noise of their dtype.
        timesteps : float, or sequence of N floats
            Of `timesteps`.
        """
        places = list(map(self._index, timesteps)) if np.ndim(timesteps) else self._index(timesteps)
        alpha, sigma = (
            Coefficient(np.asarray([getattr(point, name) for point in self.points]))(places, x0)
            for name in ("alpha", "sigma")
        )
        return ops.add(ops.multiply(x0, alpha), ops.multiply(noise, sigma))

    def step(
        self,
        model_output: Array,
        timestep: float,
        sample: Array,
        *,
        rng: Generator | None = None,
        noise: Array | None = None,
    ) -> Step:
        """Go from `timestep` to the point that follows.

        A timestep which is not the one that follows the last step begins a new run, without memory.

        Parameters
        ----------
        model_output : array, shape (N, C, H, W) or (N, 2C, H, W)
            What the network said of `scale_model_input(sample, timestep)`. A second half of channels, which says a
            learned variance, is for `DDPM`; others do not look at it.
        timestep : int or float
            One of `timesteps`.
        sample : array, shape (N, C, H, W)
            The noisy image at `timestep`.
        rng : Generator, optional
            Draws the noise of samplers that add some.
        noise : array, shape (N, C, H, W), optional
            Standard normal noise, to be used in place of what `rng` would draw.

        Returns
        -------
        Step

        Raises
        ------
        ValueError
            If `timestep` is none of `timesteps`, noise is to be added without `rng` or `noise`, or the sampler
            asks for what the network cannot tell: the image where only noise is left, or noise in a clean image.
        """
        i, xp = self._index(timestep), backend_of(sample).xp
        before = self.history[:] if i == self._next else []

        def draw() -> Array:
            if noise is not None:
                return cast(xp, noise, sample)
            if rng is not None:
                return noise_like(rng, sample)
            raise ValueError(
                f"{type(self).__name__}.step adds noise: pass rng=minidiff.random.Generator(seed, device=...)"
            )

        self.history = before[:]
        try:
            result = self._advance(i, cast(xp, model_output, sample), sample, draw)
        except Exception:
            self.history, self._next = before, i  # so that the step can be taken again
            raise
        self._next = i + 1
        return result

    # --- for subclasses

    def _plan(self, n: int) -> list[Point]:
        """The points of a run in n steps, one more than timesteps."""
        raise NotImplementedError

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        """From `points[i]` to `points[i + 1]`, y being what the network said of x; `draw()` gives fresh noise."""
        raise NotImplementedError

    def _begin(self, points: list[Point]) -> None:
        self.points, self.timesteps = points, [point.timestep for point in points[:-1]]
        self.history, self._next = [], 0

    def _x0(self, y: Array, x: Array, point: Point) -> Array:
        """The clean image as the network sees it, within its limits."""
        x0 = self._part("x0", y, x, point)
        if self.thresholding:
            return dynamic_threshold(x0, self.dynamic_thresholding_ratio, self.sample_max_value)
        return ops.clip(x0, -self.clip_sample_range, self.clip_sample_range) if self.clip_sample else x0

    def _noise(self, y: Array, x: Array, point: Point) -> Array:
        """The noise as the network sees it; as in diffusers, limits on the clean image do not change it."""
        return self._part("noise", y, x, point)

    def _part(self, name: str, y: Array, x: Array, point: Point) -> Array:
        if y.ndim > 1 and y.shape[1] == 2 * x.shape[1]:  # the network says a variance besides
            y = y[:, : x.shape[1], ...]
        pair: Pair = getattr(find_prediction(self.prediction_type), name)
        try:
            of_y, of_x = pair(point.alpha, point.sigma)
        except ZeroDivisionError:
            what = "alpha = 0: no image is left" if not point.alpha else "sigma = 0: there is no noise yet"
            raise ValueError(
                f"{type(self).__name__}.step: at timestep {point.timestep} {what}, and prediction_type "
                f"{self.prediction_type!r} cannot tell it; 'v_prediction' can"
            ) from None
        return mix((of_y, y), (of_x, x))

    def _index(self, timestep: float) -> int:
        """Which of `timesteps` this is: the one that follows the last step, if it fits."""
        name = type(self).__name__
        if not self.timesteps:
            raise ValueError(f"{name}: call set_timesteps(n) before the first step")
        if self._next < len(self.timesteps) and self.timesteps[self._next] == timestep:
            return self._next
        places = [i for i, t in enumerate(self.timesteps) if t == timestep]
        if not places:
            raise ValueError(
                f"{name}: timestep {timestep} is none of the {len(self.timesteps)} "
                f"that set_timesteps chose, from {self.timesteps[0]} to {self.timesteps[-1]}"
            )
        return places[min(1, len(places) - 1)]  # the second of two is where a step of two calls begins
