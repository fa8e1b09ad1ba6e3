"""The image, the noise, the network and the random numbers of diffusers' own tests of schedulers, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPE = (4, 3, 8, 8)
SIZE = math.prod(SHAPE)


def ramp() -> NDArray[np.float32]:
    """The image (`dummy_sample_deter`)."""
    return (np.arange(SIZE, dtype=np.float32).reshape(3, 8, 8, 4) / np.float32(SIZE)).transpose(3, 0, 1, 2)


def reversed_ramp() -> NDArray[np.float32]:
    """The noise (`dummy_noise_deter`)."""
    numbers = np.arange(SIZE, dtype=np.float32)[::-1] / np.float32(SIZE)
    return numbers.reshape(3, 8, 8, 4).transpose(3, 0, 1, 2)


def dummy_model(x: Any, t: float) -> Any:
    """The network."""
    return x * (t / (t + 1))


def torch_noise(seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """What `torch.randn(SHAPE, generator=torch.manual_seed(seed))` gives, call by call, on a CPU.

    The Mersenne twister's lowest 24 bits are uniform numbers; Box and Muller's transform takes them in blocks of
    16, the first 8 for the radius and the last 8 for the angle.
    """
    bits = np.random.RandomState(seed)
    while True:
        raw = bits.randint(0, 2**32, size=(SIZE // 16, 2, 8), dtype=np.uint32) & np.uint32(2**24 - 1)
        u = raw.astype(np.float32) / np.float32(2**24)
        radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - u[:, 0]))
        angle = np.float32(2 * np.pi) * u[:, 1]
        yield np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(SHAPE)
