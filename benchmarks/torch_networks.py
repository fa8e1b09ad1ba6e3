"""PyTorch as a party of the comparison: the U-Net, training step and DDIM loop as its users write them.

Parameters have the names and layouts of minidiff's, so a state dict of either network loads into the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.interleave import Work
from benchmarks.parties import LEARNING_RATE, Call, arriving_gradient, with_arrays
from minidiff import stop_gradient
from minidiff.backend import Array
from minidiff.diffusion import DDIM
from minidiff.models import UNet as Original

__all__ = ["COUNTERPARTS", "Eager", "UNet"]


def timestep_embedding(timesteps: Any, width: int) -> Any:
    """Timesteps (N,) -> sines and cosines (N, width), computed in float64."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / max(half - 1, 1)
    angles = timesteps.double()[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class ResBlock(nn.Module):  # type: ignore[misc]
    """A residual block that is told the time."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        groups = min(8, out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, out_channels)
        self.time_mlp = nn.Linear(time_dim, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        same = in_channels == out_channels
        self.skip_conv = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Any, time: Any) -> Any:
        """(N, in_channels, H, W), (N, time_dim) -> (N, out_channels, H, W)."""
        h = F.silu(self.norm1(self.conv1(x)))
        h = h + F.silu(self.time_mlp(time))[:, :, None, None]
        h = F.silu(self.norm2(self.conv2(h)))
        return h + self.skip_conv(x)


class Downsample(nn.Module):  # type: ignore[misc]
    """Halve an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Any) -> Any:
        """(N, channels, H, W) -> (N, channels, H / 2, W / 2)."""
        return self.conv(x)


class Upsample(nn.Module):  # type: ignore[misc]
    """Double an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Any) -> Any:
        """(N, channels, H, W) -> (N, channels, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class UNet(nn.Module):  # type: ignore[misc]
    """`minidiff.models.UNet` without conditions."""

    def __init__(self, in_channels: int, model_channels: int, out_channels: int) -> None:
        super().__init__()
        m, time_dim = model_channels, 4 * model_channels
        self.model_channels = m
        self.time_mlp1 = nn.Linear(m, time_dim)
        self.time_mlp2 = nn.Linear(time_dim, time_dim)
        self.init_conv = nn.Conv2d(in_channels, m, 3, padding=1)
        self.down1 = ResBlock(m, 2 * m, time_dim)
        self.pool1 = Downsample(2 * m)
        self.down2 = ResBlock(2 * m, 4 * m, time_dim)
        self.pool2 = Downsample(4 * m)
        self.down3 = ResBlock(4 * m, 4 * m, time_dim)
        self.mid1 = ResBlock(4 * m, 4 * m, time_dim)
        self.mid2 = ResBlock(4 * m, 4 * m, time_dim)
        self.up3 = ResBlock(8 * m, 4 * m, time_dim)
        self.upsample2 = Upsample(4 * m)
        self.up2 = ResBlock(8 * m, 2 * m, time_dim)
        self.upsample1 = Upsample(2 * m)
        self.up1 = ResBlock(4 * m, m, time_dim)
        self.final_norm = nn.GroupNorm(min(8, m), m)
        self.final_conv = nn.Conv2d(m, out_channels, 3, padding=1)

    def forward(self, x: Any, timesteps: Any) -> Any:
        """(N, in_channels, H, W), (N,) -> (N, out_channels, H, W)."""
        time = timestep_embedding(timesteps, self.model_channels).to(x.dtype)
        time = self.time_mlp2(F.silu(self.time_mlp1(time)))
        skip1 = self.down1(self.init_conv(x), time)
        skip2 = self.down2(self.pool1(skip1), time)
        skip3 = self.down3(self.pool2(skip2), time)
        h = self.mid2(self.mid1(skip3, time), time)
        h = self.up3(torch.cat([h, skip3], dim=1), time)
        h = self.up2(torch.cat([self.upsample2(h), skip2], dim=1), time)
        h = self.up1(torch.cat([self.upsample1(h), skip1], dim=1), time)
        return self.final_conv(F.silu(self.final_norm(h)))


class Eager:
    """PyTorch without compilation, as a party with copies of the weights of minidiff's network.

    In channels-last memory its Adam is the fused one: PyTorch at its best beside PyTorch's defaults.
    """

    def __init__(self, model: Original, *, channels_last: bool = False) -> None:
        config = model.config
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.fused = True if channels_last else None
        self.network = UNet(config["in_channels"], config["model_channels"], config["out_channels"])
        self.network.load_state_dict(
            {name: torch.tensor(array) for name, array in model.state_dict().items()}
        )
        self.network.to(memory_format=self.layout)

    def use_threads(self, threads: int) -> None:
        """See `Party`."""
        torch.set_num_threads(threads)

    def forward(self, x: Array, timesteps: Array) -> Work:
        """See `Party`."""
        images, t = self._tensor(x), self._tensor(timesteps)

        def run() -> Any:
            with torch.inference_mode():
                return self.network(images, t)

        return Work(run)

    def training_step(self, x: Array, timesteps: Array, noise: Array) -> Work:
        """See `Party`."""
        images, t, target = self._tensor(x), self._tensor(timesteps), self._tensor(noise)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=self.fused)

        def run() -> tuple[Any, dict[str, Any]]:
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(self.network(images, t), target)
            loss.backward()
            optimizer.step()
            return loss.detach(), {name: p.grad for name, p in self.network.named_parameters()}

        return Work(run)

    def ddim(self, noise: Array, steps: int) -> Work:
        """See `Party`; equation 12 of arXiv:2010.02502 without fresh noise, as `minidiff.diffusion.DDIM` has it."""
        sampler = DDIM()
        sampler.set_timesteps(steps)
        timesteps = [int(t) for t in sampler.timesteps]
        alpha_bars = [*map(float, sampler.schedule.alphas_cumprod[timesteps]), 1.0]
        start = self._tensor(noise)

        def run() -> Any:
            x = start
            with torch.inference_mode():
                for t, (a, a_prev) in zip(timesteps, pairwise(alpha_bars), strict=True):
                    eps = self.network(x, torch.full((len(x),), t))
                    x0 = ((x - (1 - a) ** 0.5 * eps) / a**0.5).clamp(-1, 1)
                    x = a_prev**0.5 * x0 + (1 - a_prev) ** 0.5 * eps
            return x

        return Work(run)

    def op(self, call: Call) -> tuple[Work, Work]:
        """See `Party`."""
        function = COUNTERPARTS[call.name]
        constants = with_arrays(call.inputs, self._tensor)

        def forward() -> Any:
            with torch.inference_mode():
                return function(*constants, **call.options)

        dy = self._tensor(arriving_gradient(tuple(forward().shape)))
        leaves: list[Any] = []

        def leaf(tensor: Any) -> Any:
            leaves.append(tensor.detach().requires_grad_())
            return leaves[-1]

        variables = with_arrays(constants, leaf)
        return Work(forward), Work(
            lambda y: torch.autograd.grad(y, leaves, dy), lambda: (function(*variables, **call.options),)
        )

    def _tensor(self, array: Any) -> Any:
        tensor = torch.from_numpy(np.ascontiguousarray(stop_gradient(array)))
        return tensor.contiguous(memory_format=self.layout) if tensor.ndim == 4 else tensor


def _conv2d(
    x: Any, weight: Any, bias: Any = None, shift: Any = None, residual: Any = None, **options: Any
) -> Any:
    y = F.conv2d(x, weight, bias, **options)
    y = y if shift is None else y + shift[:, :, None, None]
    return y if residual is None else y + residual


def _group_norm(x: Any, weight: Any, bias: Any, *, groups: int, eps: float, activation: str | None) -> Any:
    y = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(y) if activation == "silu" else y


# What a PyTorch user calls in place of the ops of the U-Net, which passes every option by name.
COUNTERPARTS: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "concat": lambda arrays, *, axis: torch.cat(arrays, dim=axis),
    "conv2d": _conv2d,
    "group_norm": _group_norm,
    "linear": F.linear,
    "silu": F.silu,
    "upsample2d": lambda x, scale: F.interpolate(x, scale_factor=scale, mode="nearest"),
}
