"""The unconditional U-Net of diffusers: its configuration keys and its parameter names, so that checkpoints fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from minidiff import ops
from minidiff.autodiff import Parameter
from minidiff.backend import Array
from minidiff.models.per_image import per_image
from minidiff.models.pretrained import PretrainedModule
from minidiff.models.unet_2d_blocks import down_blocks, mid_block, plain_style, up_blocks
from minidiff.models.unet_2d_config import check_config
from minidiff.models.unet_2d_parts import ACTIVATIONS, Factory, Step, TimeEmbedding
from minidiff.nn import Activation, Conv2d, Embedding, GroupNorm, timestep_embedding
from minidiff.nn.time import FourierFeatures
from minidiff.ops.support import check_floating
from minidiff.random import Generator

__all__ = ["UNet2DModel"]

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class UNet2DModel(PretrainedModule):
    """A U-Net on images and times, in all variants that diffusers' `UNet2DModel` has: DDPM [1]_, NCSN++ [2]_, LDM [3]_.

    Parameters
    ----------
    sample_size : int or (int, int), optional
        Side of the images that it was trained on, in pixels; for the reader of the configuration.
    in_channels, out_channels : int
    center_input_sample : bool
        Map the input from [0, 1] to [-1, 1] first.
    time_embedding_type : str
        "positional" (sines and cosines of the timestep), "fourier" (of the logarithm of a noise level at random
        frequencies; the output is divided by the level) or "learned" (a table of `num_train_timesteps` rows).
    time_embedding_dim : int, optional
        Width of the time embedding; 4 `block_out_channels[0]` by default.
    freq_shift, flip_sin_to_cos : float, bool
        Of the positional embedding; see `nn.timestep_embedding`.
    down_block_types, up_block_types : sequence of str
        One for each resolution, finest first and finest last: DownBlock2D, AttnDownBlock2D, ResnetDownsampleBlock2D,
        SkipDownBlock2D, AttnSkipDownBlock2D; UpBlock2D and so on.
    mid_block_type : str or None
        "UNetMidBlock2D".
    block_out_channels : sequence of int
        Channels at each resolution.
    layers_per_block : int
        Residual blocks at each resolution going down; one more going up.
    mid_block_scale_factor : float
        The sums in the middle are divided by it.
    downsample_padding : int
        Of the halving convolutions: 1 on all sides, or 0, which looks one pixel past the right and the bottom.
    downsample_type, upsample_type : str
        "conv" or "resnet", for the blocks AttnDownBlock2D and AttnUpBlock2D.
    dropout : float
        Probability inside residual blocks. It happens only in calls with `rng`.
    act_fn : str
        "silu", "swish", "mish", "gelu" or "relu".
    attention_head_dim : int, optional
        Width of an attention head; one head by default (None).
    norm_num_groups, norm_eps : int, float
        Of the group normalizations. NCSN++ has None: a quarter of the channels, 32 at most.
    attn_norm_num_groups : int, optional
        Groups before the attention in the middle; by default `norm_num_groups`, and no normalization with scale_shift.
    resnet_time_scale_shift : str
        "default" (time is added) or "scale_shift" (it scales, too).
    add_attention : bool
        In the middle.
    class_embed_type : str, optional
        What labels are: None (rows of a table of `num_class_embeds`), "timestep" or "identity" (vectors as wide as
        the time embedding).
    num_class_embeds, num_train_timesteps : int, optional
    rng : Generator, optional
        Draws the initial values; its device is where they live. `Generator(0)` by default.

    Attributes
    ----------
    config : dict
        All keys above but `rng`, as JSON values.

    Raises
    ------
    ValueError
        If the configuration cannot be built.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    .. [2] Song et al., "Score-based generative modeling through stochastic differential equations", 2021,
       arXiv:2011.13456.
    .. [3] Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022, arXiv:2112.10752.
    """

    def __init__(
        self,
        sample_size: int | Sequence[int] | None = None,
        in_channels: int = 3,
        out_channels: int = 3,
        center_input_sample: bool = False,
        time_embedding_type: str = "positional",
        time_embedding_dim: int | None = None,
        freq_shift: float = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: Sequence[str] = ("DownBlock2D", *["AttnDownBlock2D"] * 3),
        mid_block_type: str | None = "UNetMidBlock2D",
        up_block_types: Sequence[str] = (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        block_out_channels: Sequence[int] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        mid_block_scale_factor: float = 1,
        downsample_padding: int = 1,
        downsample_type: str = "conv",
        upsample_type: str = "conv",
        dropout: float = 0.0,
        act_fn: str = "silu",
        attention_head_dim: int | None = 8,
        norm_num_groups: int | None = 32,
        attn_norm_num_groups: int | None = None,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        add_attention: bool = True,
        class_embed_type: str | None = None,
        num_class_embeds: int | None = None,
        num_train_timesteps: int | None = None,
        *,
        rng: Generator | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "rng")}
        self.config = {
            key: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for key, value in given.items()
        }
        check_config(self.config)
        rng = rng or Generator(0)
        width = time_embedding_dim or 4 * block_out_channels[0]
        factory = Factory(
            time_width=width,
            eps=norm_eps,
            act_fn=act_fn,
            scale_shift=resnet_time_scale_shift == "scale_shift",
            dropout=dropout,
            head_dim=attention_head_dim,
            rng=rng,
        )
        first: int = block_out_channels[0]
        self.gradient_checkpointing = False
        self.conv_in = Conv2d(in_channels, first, 3, padding=1, rng=rng)
        self.time_proj, features = _time_features(self.config, rng)
        self.time_embedding = TimeEmbedding(features, width, rng=rng)
        self.class_embedding = _class_embedding(self.config, features, width, rng)
        self.down_blocks, kept = down_blocks(self.config, factory)
        self.mid_block = mid_block(self.config, factory)
        self.up_blocks = up_blocks(self.config, factory, kept)
        groups = plain_style(norm_num_groups, None).groups(first)
        self.conv_norm_out = GroupNorm(groups, first, eps=norm_eps, rng=rng)
        self.conv_out = Conv2d(first, out_channels, 3, padding=1, rng=rng)

    @classmethod
    def renamed(cls, state: Mapping[str, Array]) -> dict[str, Array]:
        """A state under today's names: attention was query, key, value and proj_attn in early checkpoints."""
        return {_renamed(name): array for name, array in state.items()}

    @property
    def null_label(self) -> int | None:
        """The last of `num_class_embeds` labels, for networks that were trained with it as "any class"; else None."""
        rows = self.config["num_class_embeds"]
        return None if self.config["class_embed_type"] or not rows else rows - 1

    def enable_gradient_checkpointing(self) -> None:
        """Remember less for the gradient: what happens inside residual blocks is computed again on the way back."""
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Remember all that the gradient needs."""
        self.gradient_checkpointing = False

    def trained_parameters(self) -> dict[str, Parameter]:
        """What an optimizer is given: all parameters but the frequencies of Fourier features."""
        fixed = ("time_proj.",) if isinstance(self.time_proj, FourierFeatures) else ()
        return {name: p for name, p in self.parameters().items() if not name.startswith(fixed)}

    def __call__(self, x: Any, timesteps: Any, labels: Any = None, *, rng: Generator | None = None) -> Any:
        """(N, in_channels, H, W) -> (N, out_channels, H, W).

        Parameters
        ----------
        x : array, shape (N, in_channels, H, W)
            H and W must halve once for each resolution but the first.
        timesteps : number or array, shape (N,)
            In training steps; noise levels above 0 for Fourier embeddings; integers for learned ones.
        labels : number or array, shape (N,), or array (N, time_embedding_dim)
            Integers for a table of classes, numbers for "timestep", vectors for "identity". Needed if, and only if,
            the network was made with class embeddings.
        rng : Generator, optional
            Draws dropout: the losses of `minidiff.diffusion` pass it where there is dropout, inference does not.

        Raises
        ------
        TypeError
            If x is not floating, or labels are not integers where a table is looked up.
        ValueError
            If shapes do not fit, or labels are missing or unexpected.
        IndexError
            If an integer is not a row of its table.
        """
        self._check(x, labels)
        times = per_image("UNet2DModel", x, timesteps, "timesteps")
        step = Step(self._time(x, times, labels), rng, self.gradient_checkpointing)
        image = ops.subtract(ops.multiply(x, 2.0), 1.0) if self.config["center_input_sample"] else x
        h = self.conv_in(image)
        kept = [h]
        for down in self.down_blocks:
            outputs, image = down(kept[-1], image, step)
            kept += outputs
        h, image = kept[-1], None
        if self.mid_block:
            h = self.mid_block(h, step)
        for up in self.up_blocks:
            h, image = up(h, kept, image, step)
        y = self.conv_out(self.conv_norm_out(h, activation="silu"))
        if image is not None:
            y = ops.add(y, image)
        if self.config["time_embedding_type"] == "fourier":
            y = ops.divide(y, ops.astype(times, y.dtype)[:, None, None, None])
        return y

    def _time(self, x: Any, times: Any, labels: Any) -> Any:
        """What residual blocks are told: activated embeddings (N, time_embedding_dim) of time and class."""
        h = self.time_embedding(ops.astype(self.time_proj(times), x.dtype, copy=False))
        if self.class_embedding:
            kind = self.config["class_embed_type"]
            if kind != "identity":
                labels = per_image("UNet2DModel", x, labels, "labels")
            if kind == "timestep":
                labels = ops.astype(self.time_proj(labels), x.dtype, copy=False)
            h = ops.add(h, ops.astype(self.class_embedding(labels), x.dtype, copy=False))
        return ACTIVATIONS[self.config["act_fn"]](h)

    def _check(self, x: Any, labels: Any) -> None:
        c, halvings = self.config, len(self.down_blocks) - 1
        check_floating("UNet2DModel", x=x)
        if len(x.shape) != 4 or x.shape[1] != c["in_channels"]:
            raise ValueError(
                f"UNet2DModel: expected images (N, {c['in_channels']}, H, W), got shape {tuple(x.shape)}"
            )
        if x.shape[2] % 2**halvings or x.shape[3] % 2**halvings:
            raise ValueError(
                f"UNet2DModel: sides must halve {halvings} times, that is divide by {2**halvings}, got "
                f"{x.shape[2]} x {x.shape[3]} pixels; pad or resize the images"
            )
        if (labels is None) != (self.class_embedding is None):
            given = "no labels" if labels is None else "labels"
            raise ValueError(
                f"UNet2DModel: {given} given, but the network was made with class_embed_type="
                f"{c['class_embed_type']!r} and num_class_embeds={c['num_class_embeds']}"
            )
        width = c["time_embedding_dim"] or 4 * c["block_out_channels"][0]
        shape = tuple(getattr(labels, "shape", ()))
        if c["class_embed_type"] == "identity" and shape != (x.shape[0], width):
            raise ValueError(f"UNet2DModel: expected labels ({x.shape[0]}, {width}), got shape {shape}")


def _renamed(name: str) -> str:
    path, _, kind = name.rpartition(".")
    block, _, layer = path.rpartition(".")
    return f"{block}.{OLD_NAMES[layer]}.{kind}" if layer in OLD_NAMES and ".attentions." in name else name


def _time_features(c: Mapping[str, Any], rng: Generator) -> tuple[Any, int]:
    """From times (N,) to features (N, width), and their width."""
    width = c["block_out_channels"][0]
    if c["time_embedding_type"] == "fourier":
        return FourierFeatures(width, rng=rng), 2 * width
    if c["time_embedding_type"] == "learned":
        return Embedding(c["num_train_timesteps"], width, rng=rng), width
    shift, flip = c["freq_shift"], c["flip_sin_to_cos"]
    return partial(timestep_embedding, width=width, freq_shift=shift, flip_sin_to_cos=flip), width


def _class_embedding(c: Mapping[str, Any], features: int, width: int, rng: Generator) -> Any:
    if c["class_embed_type"] == "timestep":
        return TimeEmbedding(features, width, rng=rng)
    if c["class_embed_type"] == "identity":
        return Activation("none")
    return Embedding(c["num_class_embeds"], width, rng=rng) if c["num_class_embeds"] is not None else None
