"""Bugs planted in copies of many arrays."""

from __future__ import annotations

TESTS = [
    "tests/test_cupy_graphs.py::test_copies",
    "tests/test_cupy_graphs.py::test_copies_of_arrays_with_gaps",
]

MUTANTS = [
    ("copy.cu", "if (i + VECTOR <= stop)", "if (i + VECTOR < stop + VECTOR)"),
    ("copy.cu", "k < stop; ++k) to[k]", "k < stop - 1; ++k) to[k]"),
    ("copy.cu", "min(start + CHUNK, table.bytes[row])", "min(start + CHUNK - VECTOR, table.bytes[row])"),
    ("copy.cu", "i += VECTOR * THREADS", "i += 2 * VECTOR * THREADS"),
    ("copy.cu", "<= static_cast<int>(blockIdx.x)", "< static_cast<int>(blockIdx.x)"),
    ("copy.cu", "step = ROWS / 2; step > 0", "step = ROWS / 4; step > 0"),
    ("copy.cu", "- table.first_block[row]) * CHUNK", "- table.first_block[row]) * THREADS"),
]
