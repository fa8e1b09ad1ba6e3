"""Bugs planted in attention."""

from __future__ import annotations

TESTS = ["tests/test_simt_attention.py"]

MUTANTS = [
    ("attention.cu", "__syncthreads();  // the tile has come", "// the tile has come"),
    ("attention.cu", "wait_for_copies<0>();", "wait_for_copies<1>();"),
    ("attention.cu", "load(step + 1 & 1, step + 1)", "load(step & 1, step + 1)"),
    ("attention.cu", "key > query", "key >= query"),
    ("attention.cu", "if (key >= problem.keys) return ABSENT;", ""),
    ("attention.cu", "query * row + key * column", "query * row + key"),
    ("attention.cu", "return causal && !mask;", "return causal;"),
    ("attention.cu", "head % heads * strides.head", "head * strides.head"),
    ("attention.cu", "sums.at[n][2 * h + 1] *= shrink;", ""),
    ("attention.cu", "sum[h] *= shrink;", ""),
    ("attention.cu", "float largest[2] = {ABSENT, ABSENT};", "float largest[2] = {0, 0};"),
    ("attention.cu", "return x + __shfl_xor_sync(0xffffffffu, x, 2);", "return x;"),
    ("attention.cu", "sees.skips() ? work.first / TILE : 0", "sees.skips() ? work.first / TILE + 1 : 0"),
    ("attention.cu", "known[2 * p.all_queries + row] = sum;", "known[p.all_queries + row] = sum;"),
    ("attention.cu", "s > HIDDEN ? slope * p.scale : 0.0f", "slope * p.scale"),
    (
        "attention.cu",
        "s > HIDDEN ? weight * (slopes.at[j][i] - common[column]) * p.scale : 0.0f",
        "weight * (slopes.at[j][i] - common[column]) * p.scale",
    ),
    ("attention.cu", "i < 3 * TILE; i += S::THREADS", "i < 2 * TILE; i += S::THREADS"),
    ("attention_tiles.cuh", " && column < from.width", ""),
    ("attention_tiles.cuh", "lane / 8 % 2 * S::PIECE", "lane / 16 % 2 * S::PIECE"),
    ("attention_tiles.cuh", "int owner = lane.g * 4 + k % 8 / 2;", "int owner = lane.g * 4 + k % 4;"),
    (
        "attention_tiles.cuh",
        "__float_as_uint(w[0]), __float_as_uint(w[2])",
        "__float_as_uint(w[0]), __float_as_uint(w[1])",
    ),
    (
        "attention_tiles.cuh",
        "pack<T>(left[0], left[1]), pack<T>(left[2], left[3])",
        "pack<T>(left[2], left[3]), pack<T>(left[0], left[1])",
    ),
    ("attention_tiles.cuh", "(k + 2 * lane.t) * S::LINE + lane.g", "(k + lane.t) * S::LINE + lane.g"),
    ("attention_tiles.cuh", "if (column + 1 < to.width)", "if (column < to.width)"),
]
