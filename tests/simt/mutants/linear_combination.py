"""Bugs planted in linear combinations."""

from __future__ import annotations

MUTANTS = [
    ("linear_combination.cu", "if (k < terms.count) x", "if (k + 1 < terms.count) x"),
    ("linear_combination.cu", "if (k >= terms.count) break;", "if (k > terms.count) break;"),
    ("linear_combination.cu", "terms.array[k] + i * V", "terms.array[k] + i"),
    ("linear_combination.cu", "terms.factor[k] *", "terms.factor[0] *"),
    ("linear_combination.cu", "if (i >= vectors) return;", "if (i >= vectors - 1) return;"),
    ("linear_combination.cu", "if (i >= vectors) return;", ""),
    ("linear_combination.cu", "constexpr int MOST = 8;", "constexpr int MOST = 7;"),
    ("linear_combination.cu", "x[k].element[v]", "x[k].element[0]"),
    ("linear_combination.cu", "write_floats(y + i * V, sum);", "write_floats(y + i, sum);"),
]
