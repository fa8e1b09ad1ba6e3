"""The blocks and the mini U-Net once more, on torch.nn.functional: each takes parameters by name, then inputs."""

from __future__ import annotations

from typing import Any

import pytest


def one_thread_torch() -> Any:
    """PyTorch, or a skip; on images this small its threads would only wait for each other."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


class Reference:
    """Written from the descriptions of the networks, to be compared with what they compute."""

    def __init__(self) -> None:
        self.torch = one_thread_torch()
        self.f = self.torch.nn.functional

    def conv(self, p: Any, name: str, x: Any, **options: Any) -> Any:
        return self.f.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options)

    def linear(self, p: Any, name: str, x: Any) -> Any:
        return self.f.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(self, p: Any, name: str, x: Any, groups: int | None = None) -> Any:
        return self.f.group_norm(x, groups or min(8, x.shape[1]), p[f"{name}.weight"], p[f"{name}.bias"])

    def mlp(self, p: Any, x: Any) -> Any:
        for i in (0, 2):
            x = self.torch.tanh(self.linear(p, f"layers.{i}", x))
        return self.linear(p, "layers.4", x)

    def conv_block(self, p: Any, x: Any, *, stride: int = 1, act: str = "silu") -> Any:
        h = self.conv(p, "conv", x, stride=stride, padding=p["conv.weight"].shape[2] // 2)
        return getattr(self.f, act)(self.norm(p, "norm", h))

    def residual_block(self, p: Any, x: Any, *, act: str = "silu") -> Any:
        h = self.conv_block(part(p, "block1"), x, act=act)
        return self.conv_block(part(p, "block2"), h, act=act) + self.skip(p, x)

    def res_block(self, p: Any, x: Any, time: Any) -> Any:
        silu = self.f.silu
        h = silu(self.norm(p, "norm1", self.conv(p, "conv1", x, padding=1)))
        h = h + silu(self.linear(p, "time_mlp", time))[:, :, None, None]
        return silu(self.norm(p, "norm2", self.conv(p, "conv2", h, padding=1))) + self.skip(p, x)

    def skip(self, p: Any, x: Any) -> Any:
        return self.conv(p, "skip_conv", x) if "skip_conv.weight" in p else x

    def attention(self, p: Any, x: Any, context: Any = None, *, heads: int, groups: int | None = None) -> Any:
        pixels = self.norm(p, "group_norm", x, groups).flatten(2).mT
        context = pixels if context is None else context
        q, k, v = (
            self.linear(p, name, y).unflatten(2, (heads, -1)).transpose(1, 2)
            for name, y in (("to_q", pixels), ("to_k", context), ("to_v", context))
        )
        y = self.f.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.linear(p, "to_out.0", y).mT.reshape(x.shape)

    def downsample(self, p: Any, x: Any) -> Any:
        return self.conv(p, "conv", x, stride=2, padding=1)

    def upsample(self, p: Any, x: Any) -> Any:
        return self.conv(p, "conv", self.f.interpolate(x, scale_factor=2), padding=1)

    def transposed(self, p: Any, x: Any) -> Any:
        return self.f.conv_transpose2d(x, p["conv.weight"], p["conv.bias"], stride=2, padding=1)

    def simple_denoiser(self, p: Any, x: Any) -> Any:
        f = self.f
        h = f.relu(self.conv(p, "encoder2", f.relu(self.conv(p, "encoder1", x, padding=1)), padding=1))
        h = f.relu(self.conv(p, "decoder1", f.interpolate(f.max_pool2d(h, 2), scale_factor=2), padding=1))
        return self.conv(p, "decoder2", h, padding=1)

    def timestep_embedding(self, t: Any, width: int) -> Any:
        half = width // 2
        frequencies = 10000 ** (-self.torch.arange(half, dtype=self.torch.float64) / (half - 1))
        angles = t.double()[:, None] * frequencies
        return self.torch.cat([angles.sin(), angles.cos()], dim=1).float()

    def unet(self, p: Any, x: Any, t: Any, context: Any = None, labels: Any = None, *, heads: int) -> Any:
        def block(name: str, h: Any) -> Any:
            return self.res_block(part(p, name), h, time)

        time = self.timestep_embedding(t, p["time_mlp1.weight"].shape[1]).to(x.dtype)
        time = self.linear(p, "time_mlp2", self.f.silu(self.linear(p, "time_mlp1", time)))
        if labels is not None:
            time = time + p["label_embedding.weight"][labels]
        skip1 = block("down1", self.conv(p, "init_conv", x, padding=1))
        skip2 = block("down2", self.downsample(part(p, "pool1"), skip1))
        skip3 = block("down3", self.downsample(part(p, "pool2"), skip2))
        h = block("mid1", skip3)
        for name, source in (("mid_attention", None), ("mid_cross_attention", context)):
            if f"{name}.to_q.weight" in p:
                h = self.attention(part(p, name), h, source, heads=heads)
        h = block("up3", self.torch.cat([block("mid2", h), skip3], dim=1))
        h = block("up2", self.torch.cat([self.upsample(part(p, "upsample2"), h), skip2], dim=1))
        h = block("up1", self.torch.cat([self.upsample(part(p, "upsample1"), h), skip1], dim=1))
        return self.conv(p, "final_conv", self.f.silu(self.norm(p, "final_norm", h)), padding=1)


def part(p: dict[str, Any], name: str) -> dict[str, Any]:
    """The parameters below `name`."""
    return {key.removeprefix(name + "."): value for key, value in p.items() if key.startswith(name + ".")}
