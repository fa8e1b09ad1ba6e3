"""The device's memory, which is the host's: blocks that remember their size, and a limit."""

from __future__ import annotations

import bisect
import ctypes
from dataclasses import dataclass

from cupy_backends.cuda.api.runtime import CUDARuntimeError

__all__ = ["TOTAL", "Block", "allocate", "block_at", "free_bytes", "is_pinned", "release"]

TOTAL = 6 << 30  # bytes
ALIGNMENT = 512  # of cudaMalloc
NO_MEMORY = 2  # cudaErrorMemoryAllocation

_libc = ctypes.CDLL(None)
_libc.aligned_alloc.restype, _libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
_libc.free.argtypes = [ctypes.c_void_p]


@dataclass(eq=False)
class Block:
    """What one call allocated."""

    address: int
    size: int
    pinned: bool  # of the host, which the device may read when it likes
    freed: bool = False


_blocks: dict[int, Block] = {}
_addresses: list[int] = []  # of `_blocks`, in order


def allocate(size: int, pinned: bool = False) -> int:
    """The address of `size` bytes, each 0xFF: what nobody wrote is not a number.

    Raises
    ------
    CUDARuntimeError
        If that is more than the device has.
    """
    if not pinned and size > free_bytes():
        raise CUDARuntimeError(NO_MEMORY)
    address = _libc.aligned_alloc(ALIGNMENT, max(1, -(-size // ALIGNMENT)) * ALIGNMENT)
    ctypes.memset(address, 0xFF, size)
    _blocks[address] = Block(address, size, pinned)
    bisect.insort(_addresses, address)
    return int(address)


def release(address: int) -> None:
    """Give a block back."""
    block = _blocks.pop(address)
    block.freed = True
    _addresses.remove(address)
    _libc.free(address)


def free_bytes() -> int:
    """How much of the device's memory is left."""
    return TOTAL - sum(block.size for block in _blocks.values() if not block.pinned)


def block_at(address: int) -> Block | None:
    """The block in which an address lies."""
    place = bisect.bisect(_addresses, address) - 1
    if place < 0:
        return None
    block = _blocks[_addresses[place]]
    return block if address < block.address + block.size else None


def is_pinned(address: int) -> bool:
    """Whether it is memory of the host that the device reads when it likes."""
    block = block_at(address)
    return block is not None and block.pinned
