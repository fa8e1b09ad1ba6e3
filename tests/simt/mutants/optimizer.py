"""Bugs planted in the optimizers."""

from __future__ import annotations

TESTS = ["tests/test_simt_optimizer.py"]

MUTANTS = [
    (
        "optimizer.cu",
        "table.first_block[row + step] <= static_cast<int>(blockIdx.x)",
        "table.first_block[row + step] < static_cast<int>(blockIdx.x)",
    ),
    ("optimizer.cu", "int step = ROWS / 2;", "int step = ROWS / 4;"),
    ("optimizer.cu", "min(start + CHUNK, table.size[row])", "start + CHUNK"),
    ("optimizer.cu", "i < chunk.stop; i += 4 * THREADS", "i < chunk.stop - 4; i += 4 * THREADS"),
    ("optimizer.cu", "i < chunk.stop; i += 4 * THREADS", "i < chunk.stop; i += 8 * THREADS"),
    (
        "optimizer.cu",
        "if (i + k < chunk.stop) y.value[k] = to_float(x[k]);",
        "if (i + k < chunk.stop) y.value[k] = to_float(x[0]);",
    ),
    (
        "optimizer.cu",
        "if (i + k < chunk.stop) x[k] = from_float<T>(y.value[k]);",
        "if (i + k < chunk.stop - 1) x[k] = from_float<T>(y.value[k]);",
    ),
    (
        "optimizer.cu",
        "p.value[k] -= lr * decayed(g.value[k], p.value[k], weight_decay);",
        "p.value[k] -= lr * g.value[k];",
    ),
    ("optimizer.cu", "nesterov ? slope + decay * b.value[k] : b.value[k]", "b.value[k]"),
    ("optimizer.cu", "rest2 * (g.value[k] * g.value[k])", "rest1 * (g.value[k] * g.value[k])"),
    ("optimizer.cu", "(sqrtf(v.value[k]) * v_scale + eps)", "sqrtf(v.value[k] * v_scale + eps)"),
    (
        "optimizer.cu",
        "p.value[k] -= lr * decayed(step, p.value[k], weight_decay);",
        "p.value[k] -= lr * step + weight_decay * p.value[k];",
    ),
    ("optimizer.cu", "rest * (p.value[k] - average.value[k])", "rest * p.value[k]"),
    (
        "optimizer.cu",
        "if (threadIdx.x == 0) partial[blockIdx.x] = total;",
        "if (threadIdx.x == 1) partial[blockIdx.x] = 2 * total;",
    ),
    ("optimizer.cu", "i < count; i += THREADS", "i < min(count, THREADS); i += THREADS"),
    ("optimizer.cu", "max_norm < norm && norm <= LARGEST", "max_norm < norm"),
    ("optimizer.cu", "max_norm < norm && norm <= LARGEST", "norm <= LARGEST"),
    ("reductions.cuh", "__syncthreads();\n    sum = lane < warps", "sum = lane < warps"),
]
