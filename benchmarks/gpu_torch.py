"""PyTorch as parties of `benchmarks.gpu`: eager, NCHW or channels_last, and compiled."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu_parties import Hosts, arriving, call
from benchmarks.gpu_timing import rotating
from benchmarks.interleave import Work
from benchmarks.parties import LEARNING_RATE
from benchmarks.torch_networks import COUNTERPARTS, UNet
from minidiff.backend import Array
from minidiff.diffusion import DDIM
from minidiff.models import UNet as Original
from minidiff.testing import Case

__all__ = ["PyTorch", "prepare"]


def prepare() -> dict[str, Any]:
    """Let PyTorch compute as fast as it can, TF32 included; what that means, for the record."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return {
        "torch": torch.__version__,
        "cuDNN": torch.backends.cudnn.version(),
        "TF32": "matrix products and convolutions",
        "cudnn.benchmark": True,
    }


def _attention(q: Any, k: Any, v: Any, mask: Any = None, *, causal: bool = False, scale: Any = None) -> Any:
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)


class PyTorch:
    """PyTorch with copies of a network's weights.

    Parameters
    ----------
    model : UNet
        minidiff's, on the CPU.
    device : str
    channels_last : bool
        Also uses the fused Adam: PyTorch at its best beside PyTorch's defaults.
    mode : str, optional
        Of `torch.compile`, with which networks are compiled: "default", "max-autotune".
    """

    def __init__(self, model: Original, device: str, *, channels_last: bool, mode: str | None = None) -> None:
        self._model, self._device, self._mode = model, device, mode
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._fused = True if channels_last else None

    def to_host(self, array: Any) -> Any:
        """See `Party`."""
        return array.detach().float().cpu().numpy()

    def op(self, case: Case, hosts: Hosts, dtype: str, sets: int) -> tuple[Work, Work]:
        """See `Party`."""
        function = {**COUNTERPARTS, "scaled_dot_product_attention": _attention}[case.op]
        is_image = "attention" not in case.op
        first = [self._tensor(x, dtype, is_image) for x in hosts]
        copies = rotating([tuple(x.clone() if torch.is_tensor(x) else x for x in first) for _ in range(sets)])
        dy: list[Any] = []

        def forward(*tensors: Any) -> Any:
            with torch.inference_mode():
                return call(case, tensors, function)

        def recorded() -> tuple[Any, list[Any]]:
            leaves = [x.detach().requires_grad_() if torch.is_tensor(x) else x for x in copies()]
            y = call(case, leaves, function)
            if not dy:
                dy.append(self._tensor(arriving(tuple(y.shape)), dtype, is_image))
            return y, [x for x in leaves if torch.is_tensor(x)]

        return Work(forward, copies), Work(lambda y, leaves: torch.autograd.grad(y, leaves, dy[0]), recorded)

    def adam(self, parameters: Hosts, gradients: Hosts) -> Work:
        """See `Party`."""
        own = [self._tensor(p, "float32", True).clone().requires_grad_() for p in parameters]
        for p, g in zip(own, gradients, strict=True):
            p.grad = self._tensor(g, "float32", True)
        optimizer = self._adam(own)

        def run() -> list[Any]:
            optimizer.step()
            return own

        return Work(run)

    def forward(self, x: Array, timesteps: Array, dtype: str) -> Work:
        """See `Party`; the weights are in the dtype."""
        network = self._network(dtype)
        given, t = self._tensor(x, dtype, True), self._tensor(timesteps, None, False)

        def run() -> Any:
            with torch.inference_mode():
                return network(given, t)

        return Work(run)

    def ddim(self, noise: Array, steps: int, dtype: str) -> Work:
        """See `Party`; equation 12 of arXiv:2010.02502 without fresh noise, as `minidiff.diffusion.DDIM` has it."""
        network, sampler = self._network(dtype), DDIM()
        sampler.set_timesteps(steps)
        timesteps = [int(t) for t in sampler.timesteps]
        alpha_bars = [*map(float, sampler.schedule.alphas_cumprod[timesteps]), 1.0]
        start = self._tensor(noise, dtype, True)

        def run() -> Any:
            x = start
            with torch.inference_mode():
                for t, (a, a_prev) in zip(timesteps, pairwise(alpha_bars), strict=True):
                    eps = network(x, torch.full((len(x),), t, device=self._device))
                    x0 = ((x - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
                    x = a_prev**0.5 * x0 + (1 - a_prev) ** 0.5 * eps
            return x

        return Work(run)

    def training_step(self, x: Array, timesteps: Array, noise: Array, dtype: str) -> Work:
        """See `Party`; weights are float32, and half precision is by autocast."""
        network = self._network("float32")
        given, target = (self._tensor(a, "float32", True) for a in (x, noise))
        t = self._tensor(timesteps, None, False)
        optimizer = self._adam(list(network.parameters()))
        kind = self._device.partition(":")[0]

        def run() -> tuple[Any, Mapping[str, Any]]:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(kind, getattr(torch, dtype), enabled=dtype != "float32"):
                prediction = network(given, t)
            loss = F.mse_loss(prediction.float(), target)
            loss.backward()
            optimizer.step()
            named = getattr(network, "_orig_mod", network).named_parameters()
            return loss, {name: p.grad for name, p in named}

        return Work(run)

    def _network(self, dtype: str) -> Any:
        config = self._model.config
        network = UNet(config["in_channels"], config["model_channels"], config["out_channels"])
        network.load_state_dict(
            {name: torch.tensor(array) for name, array in self._model.state_dict().items()}
        )
        network = network.to(self._device, getattr(torch, dtype), memory_format=self._layout)
        return network if self._mode is None else torch.compile(network, mode=self._mode)

    def _adam(self, parameters: list[Any]) -> Any:
        return torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=self._fused)

    def _tensor(self, host: Any, dtype: str | None, is_image: bool) -> Any:
        """A tensor, images and filters in this party's layout; anything else as it is."""
        if not isinstance(host, np.ndarray):
            return host
        x = torch.from_numpy(np.ascontiguousarray(host)).to(self._device)
        x = x if dtype is None else x.to(getattr(torch, dtype))
        return x.contiguous(memory_format=self._layout) if is_image and x.ndim == 4 else x
