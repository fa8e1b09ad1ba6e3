"""Bugs planted in normalization, in sums of columns and in reductions."""

TESTS = ["tests/test_simt_normalization.py"]

FORWARD, GRADIENT = "normalization.cu", "normalization_gradient.cu"
SHARED = "normalization.cuh"

MUTANTS = [
    # a missing barrier, and warps that see each other's old sums
    ("reductions.cuh", "    __syncthreads();\n    sum = lane", "    sum = lane"),
    ("reductions.cuh", "    __syncthreads();  // before another sum is written there\n", ""),
    ("reductions.cuh", "lane < warps ? of_warp[lane]", "lane <= warps ? of_warp[lane]"),
    ("reductions.cuh", "mask = WARP / 2", "mask = WARP / 4"),
    (GRADIENT, "    __syncthreads();  // what the last call left has been read\n", ""),
    (
        GRADIENT,
        "        __syncthreads();\n        if (depth + half < left)",
        "        if (depth + half < left)",
    ),
    (GRADIENT, "half = (left + 1) / 2", "half = left / 2"),
    ("sums.cu", "        __syncthreads();\n", ""),
    # statistics
    (FORWARD, "apart * apart * count * share", "apart * apart * count"),
    (FORWARD, "squares + other.squares +", "squares +"),
    (SHARED, "return CENTRE ? to_float(image[channels / groups * group]) : 0.f;", "return 0.f;"),
    (SHARED, "image[channels / groups * group]", "image[group]"),
    (SHARED, "(x - pivot - mean) * rstd", "(x - mean) * rstd"),
    (
        FORWARD,
        "const float numbers = static_cast<float>(count * V);",
        "const float numbers = static_cast<float>(K * V);",
    ),
    # rows and channels
    (SHARED, "row = own < step ? first + own : end;", "row = first + own;"),
    (SHARED, "end = min(rows, first + split_rows);", "end = first + split_rows;"),
    (SHARED, "count = k + 1;", "count = k;"),
    (SHARED, "group = blockIdx.x % groups;", "group = blockIdx.x / (gridDim.x / groups);"),
    (SHARED, "biases ? to_float(biases[channel + v])", "biases ? to_float(biases[channel])"),
    (SHARED, "split < splits; split += WARP", "split < min(splits, 2); split += WARP"),
    (FORWARD, "if (place.split == 0 && threadIdx.x == 0)", "if (place.split == 1 && threadIdx.x == 0)"),
    # gradients
    (
        GRADIENT,
        "const float offset = CENTRE ? pull.plain / numbers : 0.f",
        "const float offset = pull.plain / numbers",
    ),
    (GRADIENT, "pull.along += dz * affine.weight.value[v] * x_hat;", "pull.along += dz * x_hat;"),
    (GRADIENT, "dbias.value[v] += dz;", "dbias.value[v] = dz;"),
    (GRADIENT, "own + channels, dbias", "own, dbias"),
    ("activations.cuh", "return s * (1.f + x * (1.f - s));", "return s * (1.f + x - s);"),
]
