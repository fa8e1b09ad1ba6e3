"""Copies between host and device, and within the device."""

from __future__ import annotations

import ctypes

from tests.hostcuda import memory, streams

__all__ = ["FUNCTIONS"]

TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind; 3 is within the device


def _copy(to: int, from_: int, size: int, kind: int) -> None:
    streams.may_wait("copy")
    streams.finish(0)
    ctypes.memmove(to, from_, size)


def _copy_later(to: int, from_: int, size: int, kind: int, stream: int) -> None:
    """As CUDA: memory of the host that is not pinned is read at once, and waited for if it is written to."""
    if kind in (TO_DEVICE, TO_HOST) and streams.capturing():
        raise streams.refused()
    if kind == TO_HOST and not memory.is_pinned(to):
        streams.may_wait("copy")
        streams.finish(stream)
        ctypes.memmove(to, from_, size)
    elif kind == TO_DEVICE and not memory.is_pinned(from_):
        content = ctypes.string_at(from_, size)
        streams.add(stream, lambda: ctypes.memmove(to, content, size))
    else:
        streams.add(stream, lambda: ctypes.memmove(to, from_, size), lambda: (to, from_))


def _fill(to: int, value: int, size: int) -> None:
    _fill_later(to, value, size, 0)


def _fill_later(to: int, value: int, size: int, stream: int) -> None:
    streams.add(stream, lambda: ctypes.memset(to, value, size), lambda: (to,))


def _free(address: int) -> None:
    """As CUDA's: when all that is queued is done."""
    if address:
        streams.finish_all()
        memory.release(address)


FUNCTIONS = {
    "malloc": memory.allocate,
    "free": _free,
    "hostAlloc": lambda size, flags: memory.allocate(size, pinned=True),
    "freeHost": _free,
    "memGetInfo": lambda: (memory.free_bytes(), memory.TOTAL),
    "pointerGetMemoryType": lambda address: 0,
    "memcpy": _copy,
    "memcpyAsync": _copy_later,
    "memset": _fill,
    "memsetAsync": _fill_later,
}  # of cupy_backends.cuda.api.runtime
