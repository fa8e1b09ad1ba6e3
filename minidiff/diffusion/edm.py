"""EDM: a network that sees images of unit variance and is asked for an answer of unit variance, at any noise.

There x = x_0 + sigma noise, with no timesteps: the noise level sigma itself is the time. What the network returns, F,
stands for a clean image through four numbers that follow from sigma. `diffusion.EDMEuler` and its relatives, like
diffusers', apply them inside; a loop of one's own asks `EDM.denoise`.
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

__all__ = ["EDM"]


@dataclass(frozen=True)
class EDM:
    """Preconditioning and training of [1]_ (table 1, the column "Ours").

    Parameters
    ----------
    sigma_data : float
        Standard deviation of the images, of all pixels together; 0.5 for photographs in [-1, 1].
    mean, std : float
        Of ln(sigma) in training, P_mean and P_std in the paper.
    null_probability : float
        How often training hides a label, which guidance needs.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative models", 2022,
       arXiv:2206.00364.
    """

    sigma_data: float = 0.5
    mean: float = -1.2
    std: float = 1.2
    null_probability: float = 0.0

    def __post_init__(self) -> None:
        if not self.sigma_data > 0 or not self.std >= 0:
            raise ValueError(
                f"EDM: sigma_data must be above 0 and std at least 0, got {self.sigma_data} and {self.std}"
            )

    def scalings(self, sigma: Any) -> tuple[Any, Any, Any]:
        """c_skip, c_out and c_in of D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (eq. 7).

        Parameters
        ----------
        sigma : float or array, any shape
            Above 0.
        """
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total**0.5, 1 / total**0.5

    def noise_label(self, sigma: Array) -> Array:
        """c_noise: ln(sigma) / 4, what the network is given as time."""
        return ops.log(sigma) / 4

    def weight(self, sigma: Any) -> Any:
        """lambda(sigma), what an error of D weighs in the loss: 1 / c_out^2, so that all errors of F weigh the same."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def sample_sigmas(self, rng: Generator, n: int) -> Array:
        """Noise levels to train at, log-normal: an array of float32, shape (n,)."""
        return ops.exp(rng.normal((n,)) * self.std + self.mean)

    def denoise(self, model: Callable[[Array, Array], Any], x: Array, sigma: Array) -> Any:
        """The clean image as the network sees it, D(x; sigma) (eq. 7).

        Parameters
        ----------
        model : callable
            `model(c_in x, c_noise)` returns F, an array like `x`.
        x : array, shape (N, C, H, W)
            x_0 + sigma noise.
        sigma : array, shape (N,)
        """
        c_skip, c_out, c_in = (beside_images(c, x) for c in self.scalings(sigma))
        return ops.add(ops.multiply(model(c_in * x, self.noise_label(sigma)), c_out), c_skip * x)

    def loss(
        self,
        model: Any,
        x0: Array,
        rng: Generator,
        *,
        labels: Array | None = None,
        null_label: int | None = None,
    ) -> Any:
        """Mean over images and pixels of lambda(sigma) (D(x; sigma) - x_0)^2 (eq. 8), computed as an error of F.

        What F should say is (x_0 - c_skip x) / c_out. At little noise that is a difference of nearly equal images, so
        it is put together from x_0 and the noise instead: (sigma / sigma_data x_0 - sigma_data noise) c_in.

        Parameters
        ----------
        model : callable
            `model(c_in x, c_noise)`, or with `labels=labels`; c_noise is an array of floats, shape (N,). With
            dropout, see `diffusion_loss`.
        x0 : array, shape (N, C, H, W)
        rng : Generator
            Draws noise levels, noise, hidden labels, then dropout.
        labels : array of integers, shape (N,), optional
        null_label : int, optional
            Takes the place of labels that are hidden.

        Returns
        -------
        array or Tensor, shape ()
        """
        sigma = self.sample_sigmas(rng, x0.shape[0])
        noise = noise_like(rng, x0)
        predict = conditioned(
            model, rng, labels, null_label, 0.0 if labels is None else self.null_probability
        )
        c_in = self.scalings(sigma)[2]
        parts = (c_in, sigma * c_in, sigma * c_in / self.sigma_data, -self.sigma_data * c_in)
        x_of_x0, x_of_noise, f_of_x0, f_of_noise = (beside_images(part, x0) for part in parts)
        output = predict(x_of_x0 * x0 + x_of_noise * noise, self.noise_label(sigma))
        return ops.mse_loss(output, f_of_x0 * x0 + f_of_noise * noise)

    def describe(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)
