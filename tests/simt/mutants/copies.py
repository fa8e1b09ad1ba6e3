"""Bugs planted in copies of many arrays."""

from __future__ import annotations

MUTANTS = [
    ("copy.cu", "if (i + VECTOR <= stop)", "if (i + VECTOR < stop + VECTOR)"),
    ("copy.cu", "k < stop; ++k) to[k]", "k < stop - 1; ++k) to[k]"),
    ("copy.cu", "min(start + CHUNK, table.bytes[row])", "min(start + CHUNK - VECTOR, table.bytes[row])"),
    ("copy.cu", "i += VECTOR * THREADS", "i += 2 * VECTOR * THREADS"),
    ("copy.cu", "<= static_cast<int>(blockIdx.x)", "< static_cast<int>(blockIdx.x)"),
    ("copy.cu", "step = ROWS / 2; step > 0", "step = ROWS / 4; step > 0"),
    ("copy.cu", "(chunk) * CHUNK", "(chunk) * THREADS"),
]
