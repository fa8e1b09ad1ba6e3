"""What tests of random numbers share: the published words, a CPU with generic rules or words of one's own, and bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minidiff.backend import Backend, get_backend
from minidiff.philox import WORD, philox

MOST = 2**64 - 1

# Random123, tests/kat_vectors, "philox4x32 10": (counter, stream, seed) and the four words of the block.
KNOWN_ANSWERS = [
    ((0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MOST, MOST, MOST), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x85A308D3243F6A88, 0x0370734413198A2E, 0x299F31D0A4093822),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def reference() -> Backend:
    """The CPU with the generic rules."""
    return replace(get_backend("cpu"), kernels={})


def fixed_words(*words: int) -> Backend:
    """A CPU whose words are these, again and again."""
    array = np.asarray(words, np.int64)

    def random_words(xp: Any, seed: int, stream: int, counter: int, blocks: int) -> Any:
        return array[np.arange(4 * counter, 4 * (counter + blocks)) % len(array)]

    return replace(get_backend("cpu"), kernels={"random_words": random_words})


def bits(backend: Backend, x: Any) -> tuple[str, tuple[int, ...], bytes]:
    host = backend.to_numpy(x)
    return str(host.dtype), host.shape, host.tobytes()


def block(seed: int, stream: int, counter: int) -> tuple[int, ...]:
    return philox(counter & WORD, counter >> 32, stream & WORD, stream >> 32, seed)
