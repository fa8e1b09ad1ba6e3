"""A loop of twenty steps with a fixed non-linear model: what schedulers are compared on.

Everything that is drawn or predicted is made here with NumPy, so that diffusers and minidiff see the same numbers and
the ordinary suite, which has no PyTorch, the same again. A case is a mapping that can be written into a JSON file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.diffusion.samplers import Sampler
from minidiff.random import Generator

SHAPE = (2, 1, 4, 4)
STEPS = 20

Image = NDArray[Any]  # float32, or float64 where rounding is not the question


def model(x: Image, t: float, kind: str) -> Image:
    """What a network of a prediction type says: its x_0 is below 2, non-linear, different for every timestep and pixel.

    The noise that belongs to it is that of the linear schedule (in flow matching, of sigma = t / 1000), whatever the
    case under comparison uses: what matters is that all see the same.
    """
    dtype, x, t = x.dtype, x.astype(np.float64), float(t)
    neighbour = np.roll(x, 1, axis=-1)
    x0 = 1.6 * np.tanh(0.7 * x - 0.3 * neighbour + 0.2) + 0.4 * np.sin(0.004 * t + neighbour)
    if kind == "sample":
        y = x0
    elif kind == "flow_prediction":
        y = (x - x0) / max(t / 1000, 0.001)
    else:
        alpha_bar = np.exp(-1e-4 * (t + 1) - 1e-5 * t**2)
        alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        noise = (x - alpha * x0) / sigma
        y = noise if kind == "epsilon" else alpha * noise - sigma * x0
    return y.astype(dtype)


def initial(scale: float, dtype: Any) -> Image:
    """Normal noise to begin with; float32 numbers in any dtype."""
    x = np.random.default_rng(7).standard_normal(SHAPE).astype(np.float32)
    return x.astype(dtype) * np.dtype(dtype).type(scale)


class Noise:
    """Noise by step, and by draw within a step, whoever asks and whether or not all of it is used."""

    def __init__(self) -> None:
        self.step = 0

    def start(self, step: int) -> None:
        self.step = step
        self._rng = np.random.default_rng([11, step])

    def draw(self) -> Image:
        return self._rng.standard_normal(SHAPE).astype(np.float32)


class Replay(Generator):
    """A generator that draws from a `Noise`."""

    def __init__(self, noise: Noise) -> None:
        super().__init__(0, "cpu")
        self._noise = noise

    def normal(self, shape: Any, *, dtype: Any = None) -> Any:
        assert tuple(shape) == SHAPE
        return self._noise.draw().astype(dtype or np.float32)


def walk(
    sampler: Any,
    kind: str,
    step: Any,
    *,
    dtype: Any = np.float32,
    to_numpy: Any = np.asarray,
    from_numpy: Any = np.asarray,
) -> Iterator[tuple[float, Image]]:
    """Each timestep and the image after it; `step(output, t, x, noise)` takes one step of `sampler`."""
    noise = Noise()
    x = from_numpy(initial(getattr(sampler, "init_noise_sigma", 1.0), dtype))
    scaled = getattr(sampler, "scale_model_input", lambda x, t: x)  # diffusers' flow matching has neither
    for i, t in enumerate(sampler.timesteps):
        noise.start(i)
        x = step(from_numpy(model(to_numpy(scaled(x, t)), t, kind)), t, x, noise)
        yield float(t), to_numpy(x)


def checksum(x: Image) -> float:
    """A number that changes with every pixel."""
    return float(np.sum(x.ravel() * np.cos(np.arange(x.size, dtype=np.float64))))


def kind(name: str, options: Mapping[str, Any]) -> str:
    """What the model of a case says; networks with EDM's preconditioning say something of size 1."""
    if name.startswith("FlowMatch"):
        return "flow_prediction"
    return "sample" if name.startswith("EDM") else options.get("prediction_type", "epsilon")


def run(
    name: str,
    options: Mapping[str, Any],
    steps: int,
    timesteps: Mapping[str, Any],
    *,
    dtype: Any = np.float32,
) -> tuple[list[float], list[Image]]:
    """The timesteps of minidiff's sampler, and the image after each step; `name` is diffusers' without "Scheduler"."""
    sampler = Sampler.from_config({"_class_name": f"{name}Scheduler", **options})
    return run_sampler(sampler, kind(name, options), steps, timesteps, dtype=dtype)


def run_sampler(
    sampler: Any, kind: str, steps: int, timesteps: Mapping[str, Any], *, dtype: Any = np.float32
) -> tuple[list[float], list[Image]]:
    """The same, of a sampler that there is already."""
    sampler.set_timesteps(steps, **timesteps)

    def step(output: Any, t: Any, x: Any, noise: Noise) -> Any:
        return sampler.step(output, t, x, rng=Replay(noise)).prev_sample

    walked = list(walk(sampler, kind, step, dtype=dtype))
    return [t for t, _ in walked], [x for _, x in walked]
