"""Sampling along the straight lines of flow matching: x = (1 - sigma) x_0 + sigma noise, and v = noise - x_0."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minidiff.backend import Array
from minidiff.diffusion.flow import shift_times
from minidiff.diffusion.points import CLEAN, Point
from minidiff.diffusion.samplers.sampler import Draw, Sampler, Step, mix
from minidiff.diffusion.samplers.solver import dynamic_shift, stretched
from minidiff.diffusion.samplers.spacing import SIGMA_FAMILIES, descends, family_of

__all__ = ["FlowMatchEuler", "FlowMatchHeun"]

Floats = NDArray[np.float64]


@dataclass(kw_only=True, eq=False, repr=False)
class _FlowMatch(Sampler):
    """What both share.

    Parameters
    ----------
    num_train_timesteps : int
        T: timesteps are T sigma.
    shift : float
        Moves the sigmas towards noise, as larger images need it (eq. 23 of [1]_).
    """

    shift: float = 1.0

    prediction_type = "flow_prediction"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shift > 0:
            raise ValueError(f"{type(self).__name__}: shift must be above 0, got {self.shift}")

    def _spread(self, n: int) -> Floats:
        """Sigmas evenly from 1 to the least of training, before the shift; diffusers shifts the least one twice."""
        if n < 1:
            raise ValueError(f"{self!r}: {n} steps; at least 1 is needed")
        least = shift_times(np.asarray(1 / self.num_train_timesteps), self.shift)
        return np.linspace(1, float(least), n)

    def _line(self, sigmas: Floats) -> list[Point]:
        """The points of these sigmas."""
        times = (sigmas * self.num_train_timesteps).astype(np.float32).tolist()
        return [Point(1 - s, s, t) for s, t in zip(sigmas.tolist(), times, strict=True)]


@dataclass(kw_only=True, eq=False, repr=False)
class FlowMatchEuler(_FlowMatch):
    """Euler's method along v: exact where the lines are straight [1]_ [2]_.

    Parameters
    ----------
    num_train_timesteps : int
        T: timesteps are T sigma, and need not be whole.
    shift : float
        Moves the sigmas towards noise, as larger images need it (eq. 23 of [1]_).
    use_dynamic_shifting, time_shift_type : bool, str
        Take the shift from the `mu` of `set_timesteps` instead: e^mu ("exponential"), or mu ("linear").
    base_shift, max_shift, base_image_seq_len, max_image_seq_len : float, int
        mu for images of so many tokens, with a straight line between them; see `mu`.
    shift_terminal : float, optional
        Stretch the sigmas so that this is the last before the end.
    invert_sigmas : bool
        Give the network T (1 - sigma) as its time, and expect x_0 - noise of it.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas : bool
        Place the sigmas along a curve between the ends of the shifted ones; see `SIGMA_FAMILIES`.
    stochastic_sampling : bool
        Mix the predicted clean image with fresh noise in every step.

    References
    ----------
    .. [1] Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", 2024,
       arXiv:2403.03206.
    .. [2] Liu, Gong, Liu, "Flow straight and fast: Learning to generate and transfer data with rectified flow", 2022,
       arXiv:2209.03003.

    Examples
    --------
    >>> sampler = FlowMatchEuler(shift=3.0)
    >>> sampler.set_timesteps(3)
    >>> [round(t) for t in sampler.timesteps]
    [1000, 751, 9]
    """

    diffusers_name: ClassVar[str] = "FlowMatchEulerDiscreteScheduler"

    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: bool = False
    shift_terminal: float | None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    time_shift_type: str = "exponential"
    stochastic_sampling: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        family_of(self)  # for its error

    def mu(self, image_seq_len: int) -> float:
        """The `mu` of `set_timesteps` for images of so many tokens.

        Parameters
        ----------
        image_seq_len : int
            As the network sees the image: (height / patch) (width / patch).
        """
        slope = (self.max_shift - self.base_shift) / (self.max_image_seq_len - self.base_image_seq_len)
        return self.base_shift + slope * (image_seq_len - self.base_image_seq_len)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        *,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose how many steps sampling takes, or at which sigmas.

        Parameters
        ----------
        num_inference_steps : int, optional
        sigmas : sequence of float, optional
            In place of a number: sigmas before the shift, descending, from 1 at most to above 0.
        mu : float, optional
            With `use_dynamic_shifting`, how far the sigmas are moved towards noise.
        """
        shift = dynamic_shift(self, mu, self.shift)
        if num_inference_steps is not None and sigmas is None:
            chosen = self._spread(operator.index(num_inference_steps))
        elif num_inference_steps is None and sigmas is not None:
            chosen = np.asarray(sigmas, dtype=np.float64)
        else:
            raise ValueError(f"{self!r}: give set_timesteps a number of steps, or sigmas=")
        if not descends(chosen) or not 0 < chosen[-1] <= chosen[0] <= 1:
            raise ValueError(
                f"{self!r}: sigmas must go down from 1 at most to above 0, got {chosen.tolist()}"
            )
        self._begin([*self._line(self._placed(shift_times(chosen, shift))), CLEAN])

    def _spread(self, n: int) -> Floats:
        if self.use_dynamic_shifting:
            return np.linspace(1, 1 / self.num_train_timesteps, n)
        return super()._spread(n)

    def _placed(self, sigmas: Floats) -> Floats:
        """Stretched, or along a curve, where the options say so."""
        family = family_of(self)
        if self.shift_terminal:
            sigmas = stretched(sigmas, self.shift_terminal)
        if family is None:
            return sigmas
        return SIGMA_FAMILIES[family](float(sigmas[-1]), float(sigmas[0]), len(sigmas))

    def _line(self, sigmas: Floats) -> list[Point]:
        points = super()._line(sigmas)
        if not self.invert_sigmas:
            return points
        total = self.num_train_timesteps
        return [Point(p.alpha, p.sigma, float(np.float32(total * p.alpha))) for p in points]

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        sign = -1.0 if self.invert_sigmas else 1.0
        x0 = mix((1.0, x), (-sign * here.sigma, y))
        if self.stochastic_sampling:
            fresh = [(there.sigma, draw())] if there.sigma else []
            return Step(mix((there.alpha, x0), *fresh), x0)
        return Step(mix((1.0, x), (sign * (there.sigma - here.sigma), y)), x0)


@dataclass(kw_only=True, eq=False, repr=False)
class FlowMatchHeun(_FlowMatch):
    """Heun's method along v: the mean of its values at both ends of a step.

    n steps ask the network 2 n - 1 times, and `timesteps` is as long: the second of two equal timesteps begins a step.

    Parameters
    ----------
    num_train_timesteps : int
        T: timesteps are T sigma, and need not be whole.
    shift : float
        Moves the sigmas towards noise; see `FlowMatchEuler`.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364, algorithm 1.
    """

    diffusers_name: ClassVar[str] = "FlowMatchHeunDiscreteScheduler"
    calls_per_step: ClassVar[int] = 2

    def _plan(self, n: int) -> list[Point]:
        first, *rest = self._line(shift_times(self._spread(n), self.shift))
        return [first, *(p for p in rest for _ in range(2)), CLEAN]

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        here, there = self.points[i : i + 2]
        x0 = mix((1.0, x), (-here.sigma, y))
        if not self.history:
            self.history = [(x, y)]
            return Step(mix((1.0, x), (there.sigma - here.sigma, y)), x0)
        before, v = self.history.pop()
        half = (here.sigma - self.points[i - 1].sigma) / 2
        return Step(mix((1.0, before), (half, v), (half, y)), x0)
