"""The three things in a kernel's source that no macro can turn into C++; lines stay lines."""

from __future__ import annotations

import re

__all__ = ["translate"]

_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\w+\)\s*)?([\w:]+(?:\s+\w+)*?)\s+(\w+)\s*\[\s*\]\s*;"
)
_STATIC = re.compile(
    r"__shared__\s+((?:(?:__align__|alignas)\s*\([^()]*\)\s*)?)([\w:]+(?:<[^;]*?>)?(?:\s+\w+)*?)\s+(\w+)"
    r"\s*((?:\[[^\];]*\]\s*)*);"
)
_BOUNDS = re.compile(r"__launch_bounds__\s*\(([^{};]*?)\)(\s*\w+\s*\([^{};]*\)\s*\{)")


def translate(source: str) -> str:
    """CUDA C++ for g++.

    Dynamic shared memory becomes a pointer. A variable in shared memory becomes static, because all threads of a
    block are one for the compiler, and is poisoned when a new block comes to it. `__launch_bounds__` is checked.
    """
    source = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(simt::dynamic_shared);", source)
    source = _STATIC.sub(
        r"\1static \2 \3\4; static unsigned long simt_serial_\3; "
        r"simt::fresh(&\3, sizeof \3, simt_serial_\3);",
        source,
    )
    return _BOUNDS.sub(r"\2 simt::check_launch_bounds(\1);", source)
