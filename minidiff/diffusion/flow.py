"""Flow matching: images and noise on a straight line, and a network that says which way the line goes.

There x_t = (1 - t) x_0 + t noise for a time t from 0 to 1, so that alpha is 1 - t and sigma is t; the network's
output is the velocity, noise - x_0. The paper's time runs the other way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from minidiff import ops
from minidiff.backend import Array
from minidiff.diffusion.coefficients import beside_images
from minidiff.diffusion.draws import noise_like
from minidiff.diffusion.loss import conditioned
from minidiff.random import Generator

__all__ = ["TIMES", "FlowMatching", "logit_normal_times", "shift_times", "uniform_times"]


def uniform_times(rng: Generator, n: int) -> Array:
    """Times from 0 up to 1, each as likely as any other: float32, shape (n,)."""
    return rng.uniform((n,))


def logit_normal_times(rng: Generator, n: int, *, mean: float = 0.0, std: float = 1.0) -> Array:
    """Times whose logit is normal: few near 0 and 1, where there is little to learn (section 3.1 of [1]_).

    References
    ----------
    .. [1] Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", 2024,
       arXiv:2403.03206.
    """
    return ops.sigmoid(rng.normal((n,)) * std + mean)


TIMES: dict[str, Callable[[Generator, int], Array]] = {
    "uniform": uniform_times,
    "logit_normal": logit_normal_times,
}


def shift_times(t: Any, shift: float) -> Any:
    """Times moved towards noise, as larger images need it: shift t / (1 + (shift - 1) t) (eq. 23 of [1]_).

    Parameters
    ----------
    t : float or array
        From 0 to 1; both ends stay.
    shift : float
        sqrt(m / n) for images of m pixels where n needed no shift; 1 changes nothing.

    References
    ----------
    .. [1] Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis", 2024,
       arXiv:2403.03206.
    """
    return shift * t / (1 + (shift - 1) * t)


@dataclass(frozen=True)
class FlowMatching:
    """Training on straight lines between images and noise: rectified flow, flow matching [1]_ [2]_.

    Parameters
    ----------
    num_train_timesteps : int
        What the network is told as time is t times this number.
    shift : float
        Of the times; see `shift_times`.
    times : "logit_normal" or "uniform"
        How t is drawn.
    null_probability : float
        How often training hides a label, which guidance needs.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of its range.

    References
    ----------
    .. [1] Liu, Gong, Liu, "Flow straight and fast: learning to generate and transfer data with rectified flow",
       2022, arXiv:2209.03003, eq. 1.
    .. [2] Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow matching for generative modeling", 2022, arXiv:2210.02747.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    times: str = "logit_normal"
    null_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.times not in TIMES:
            raise ValueError(f"FlowMatching: times must be one of {list(TIMES)}, got {self.times!r}")
        if not self.shift > 0 or self.num_train_timesteps < 1:
            raise ValueError(
                f"FlowMatching: shift must be above 0 and num_train_timesteps at least 1, "
                f"got {self.shift} and {self.num_train_timesteps}"
            )

    def sample_times(self, rng: Generator, n: int) -> Array:
        """Times to train at: float32 from 0 to 1, shape (n,)."""
        return shift_times(TIMES[self.times](rng, n), self.shift)

    def add_noise(self, x0: Array, noise: Array, times: Array) -> Array:
        """x_t = (1 - t) x_0 + t noise, for images (N, C, H, W) and times (N,)."""
        t = beside_images(times, x0)
        return (1 - t) * x0 + t * noise

    def loss(
        self,
        model: Any,
        x0: Array,
        rng: Generator,
        *,
        labels: Array | None = None,
        null_label: int | None = None,
    ) -> Any:
        """Mean squared error of the velocity, noise - x_0, at times drawn at random.

        Parameters
        ----------
        model : callable
            `model(x_t, num_train_timesteps * t)`, or with `labels=labels`; times are floats, shape (N,). With dropout,
            see `diffusion_loss`.
        x0 : array, shape (N, C, H, W)
        rng : Generator
            Draws times, noise, hidden labels, then dropout.
        labels : array of integers, shape (N,), optional
        null_label : int, optional
            Takes the place of labels that are hidden.

        Returns
        -------
        array or Tensor, shape ()
        """
        t = self.sample_times(rng, x0.shape[0])
        noise = noise_like(rng, x0)
        predict = conditioned(
            model, rng, labels, null_label, 0.0 if labels is None else self.null_probability
        )
        output = predict(self.add_noise(x0, noise, t), t * self.num_train_timesteps)
        return ops.mse_loss(output, noise - x0)

    def describe(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)
