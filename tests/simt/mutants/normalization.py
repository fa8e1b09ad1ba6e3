"""Bugs planted in normalization, in sums of columns and in reductions."""

TESTS = ["tests/test_simt_normalization.py"]

FILE = "normalization.cu"

MUTANTS = [
    # a missing barrier, and warps that see each other's old sums
    ("reductions.cuh", "    __syncthreads();\n    sum = lane", "    sum = lane"),
    ("reductions.cuh", "    __syncthreads();  // before another sum is written there\n", ""),
    ("reductions.cuh", "lane < warps ? of_warp[lane]", "lane <= warps ? of_warp[lane]"),
    ("reductions.cuh", "mask = WARP / 2", "mask = WARP / 4"),
    (FILE, "    __syncthreads();  // what the last call left has been read\n", ""),
    (FILE, "        __syncthreads();\n        if (depth + half < left)", "        if (depth + half < left)"),
    (FILE, "half = (left + 1) / 2", "half = left / 2"),
    ("sums.cu", "        __syncthreads();\n", ""),
    # statistics
    (FILE, "apart * apart * count * share", "apart * apart * count"),
    (FILE, "squares + other.squares +", "squares +"),
    (FILE, "return CENTRE ? to_float(image[channels / groups * group]) : 0.f;", "return 0.f;"),
    (FILE, "image[channels / groups * group]", "image[group]"),
    (FILE, "(x - pivot - mean) * rstd", "(x - mean) * rstd"),
    (
        FILE,
        "const float numbers = static_cast<float>(count * V);",
        "const float numbers = static_cast<float>(K * V);",
    ),
    # rows and channels
    (FILE, "row = own < step ? first + own : end;", "row = first + own;"),
    (FILE, "end = min(rows, first + split_rows);", "end = first + split_rows;"),
    (FILE, "count = k + 1;", "count = k;"),
    (FILE, "group = blockIdx.x % groups;", "group = blockIdx.x / (gridDim.x / groups);"),
    (FILE, "biases ? to_float(biases[channel + v])", "biases ? to_float(biases[channel])"),
    (FILE, "split < splits; split += WARP", "split < min(splits, 2); split += WARP"),
    (FILE, "if (place.split == 0 && threadIdx.x == 0)", "if (place.split == 1 && threadIdx.x == 0)"),
    # gradients
    (
        FILE,
        "const float offset = CENTRE ? pull.plain / numbers : 0.f",
        "const float offset = pull.plain / numbers",
    ),
    (FILE, "pull.along += dz * affine.weight.value[v] * x_hat;", "pull.along += dz * x_hat;"),
    (FILE, "dbias.value[v] += dz;", "dbias.value[v] = dz;"),
    (FILE, "own + channels, dbias", "own, dbias"),
    ("activations.cuh", "return s * (1.f + x * (1.f - s));", "return s * (1.f + x - s);"),
]
