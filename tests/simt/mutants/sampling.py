"""Bugs planted in the samplers' step."""

from __future__ import annotations

TESTS = ["tests/test_simt_sampling.py"]

MUTANTS = [
    ("sampling.cu", "fmaxf(x0, -step.limit)", "fmaxf(x0, 0.0f)"),
    ("sampling.cu", "return x0 != x0 ? x0 : fminf", "return fminf"),
    ("sampling.cu", "step.x0_of_sample * sample", "step.x0_of_sample * output"),
    ("sampling.cu", "step.of_noise * noise", "step.of_output * noise"),
    ("sampling.cu", "if (i >= vectors) return;", "if (i >= vectors - 1) return;"),
    ("sampling.cu", "write_floats(image + i * V, x0);", "write_floats(image + i, x0);"),
    ("sampling.cu", "if (noise) z", "if (!noise) z"),
]
