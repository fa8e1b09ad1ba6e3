"""What `UNet2DModel` says of inputs and configurations that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minidiff.models import UNet2DModel


def make(**options: Any) -> UNet2DModel:
    """A tiny network, with some keys of its configuration replaced."""
    config = {
        "block_out_channels": [4, 8],
        "norm_num_groups": 2,
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }
    return UNet2DModel(**{**config, **options})


X = np.zeros((2, 3, 4, 4), np.float32)
BARE, LABELLED = make(), make(num_class_embeds=3)
VECTORS, LEARNED = (
    make(class_embed_type="identity"),
    make(time_embedding_type="learned", num_train_timesteps=9),
)
SKIPS = {"block_out_channels": [32, 32, 32], "norm_num_groups": 8}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: BARE(X[..., :3], 1), ValueError, "halve 1 times, that is divide by 2, got 4 x 3 pixels; pad or"),
        (lambda: BARE(X[:, :2], 1), ValueError, r"expected images \(N, 3, H, W\), got shape \(2, 2, 4, 4\)"),
        (lambda: BARE(X[0], 1), ValueError, r"expected images \(N, 3, H, W\), got shape \(3, 4, 4\)"),
        (lambda: BARE(X.astype(np.uint8), 1), TypeError, "UNet2DModel: x is uint8; convert it to a floating"),
        (lambda: BARE(X, [1, 2, 3]), ValueError, r"UNet2DModel: expected 2 timesteps, .*got shape \(3,\)"),
        (lambda: BARE(X, 1, 1), ValueError, "labels given, but .* class_embed_type=None and num_class_embeds=None"),
        (lambda: LABELLED(X, 1), ValueError, "no labels given, but .* num_class_embeds=3"),
        (lambda: LABELLED(X, 1, [0, 3]), IndexError, "index 3 is outside 0 to 2"),
        (lambda: LABELLED(X, 1, [0.0, 1.5]), TypeError, "indices must be integers, got float64"),
        (lambda: VECTORS(X, 1, [0, 3]), ValueError, r"expected labels \(2, 16\), got shape \(\)"),
        (lambda: LEARNED(X, 9), IndexError, "index 9 is outside 0 to 8"),
        (lambda: make(time_embedding_type="learned"), ValueError, "'learned' needs num_train_timesteps"),
        (lambda: make(time_embedding_type="sines"), ValueError, "'sines'; it is one of positional, fourier, learned"),
        (lambda: make(act_fn="elu"), ValueError, "act_fn='elu'; it is one of silu, swish, mish, gelu, relu"),
        (lambda: make(downsample_padding=2), ValueError, "downsample_padding=2; it is one of 0, 1"),
        (lambda: make(upsample_type="fir"), ValueError, "upsample_type='fir'; it is one of conv, resnet"),
        (lambda: make(mid_block_type="Mid"), ValueError, "mid_block_type='Mid'; it is one of UNetMidBlock2D, None"),
        (lambda: make(resnet_time_scale_shift="ada_group"), ValueError, "one of default, scale_shift"),
        (lambda: make(class_embed_type="projection"), ValueError, "one of None, timestep, identity"),
        (lambda: make(block_out_channels=[4]), ValueError,
         "got 1 block_out_channels, 2 down_block_types, 2 up_block_types"),
        (lambda: make(layers_per_block=0), ValueError, "layers_per_block must be 1 at least, got 0"),
        (lambda: make(block_out_channels=[4, 0]), ValueError, r"block_out_channels must be 1 at least, got \[4, 0\]"),
        (lambda: make(block_out_channels=8), ValueError, "block_out_channels must be a list, .*, got 8"),
        (lambda: make(layers_per_block=[1, 2]), ValueError, r"layers_per_block must be 1 at least, got \[1, 2\]"),
        (lambda: make(num_class_embeds=0), ValueError, "num_class_embeds must be 1 at least, got 0"),
        (lambda: make(time_embedding_dim=-4), ValueError, "time_embedding_dim must be 1 at least, got -4"),
        (lambda: make(mid_block_scale_factor=0), ValueError, "mid_block_scale_factor must not be 0"),
        (lambda: make(norm_eps=-1e-5), ValueError, "norm_eps not negative, got 1 and -1e-05"),
        (lambda: make(down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"]), ValueError,
         "unknown type 'CrossAttnDownBlock2D' in down_block_types; one of DownBlock2D, AttnDownBlock2D, Resnet"),
        (lambda: make(up_block_types=["UpBlock2D", "DownBlock2D"]), ValueError,
         "'DownBlock2D' in up_block_types; one of UpBlock2D, AttnUpBlock2D, ResnetUpsampleBlock2D, SkipUpBlock2D"),
        (lambda: make(norm_num_groups=3), ValueError, "GroupNorm: 3 groups do not divide 4 channels"),
        (lambda: make(norm_num_groups=None), ValueError, "DownBlock2D needs norm_num_groups, which is None"),
        (lambda: make(attention_head_dim=16), ValueError, "attention_head_dim=16 leaves no head in 8 channels"),
        (lambda: make(down_block_types=["SkipDownBlock2D", "DownBlock2D"], in_channels=1, norm_num_groups=1),
         ValueError, "Skip blocks work on images of 3 channels, in_channels is 1"),
        (lambda: make(**SKIPS, down_block_types=["DownBlock2D", "SkipDownBlock2D", "DownBlock2D"],
                      up_block_types=["UpBlock2D"] * 3),
         ValueError, "the Skip blocks of down_block_types must be the first ones without a gap, got DownBlock2D, Skip"),
        (lambda: make(**SKIPS, down_block_types=["DownBlock2D"] * 3,
                      up_block_types=["UpBlock2D", "SkipUpBlock2D", "UpBlock2D"]),
         ValueError, "the Skip blocks of up_block_types must be the last ones without a gap, got UpBlock2D, SkipUp"),
    ],
)  # fmt: skip
def test_errors_name_the_numbers(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
