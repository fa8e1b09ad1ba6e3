"""Bugs planted in element-wise functions, resampling, softmax and embedding."""

TESTS = ["tests/test_simt_elementwise.py"]

MUTANTS = [
    ("elementwise.cu", "i < vectors; i += stride", "i < vectors; i += vectors"),
    ("elementwise.cu", "if (axis == 0) position *= V;", ""),
    ("elementwise.cu", "at_b += position * axes.b[axis];", "at_b += position * axes.a[axis];"),
    ("elementwise.cu", "rest /= axes.length[axis];", "rest /= axes.length[0];"),
    ("elementwise.cu", "if (step) return read_floats<V>(from);", "return read_floats<V>(from);"),
    (
        "elementwise.cu",
        "FUNCTION(SubtractFromNumber, 1, number - a)",
        "FUNCTION(SubtractFromNumber, 1, a - number)",
    ),
    ("activations.cuh", "normal_distribution(x) + x * HALF_PEAK", "normal_distribution(x) - x * HALF_PEAK"),
    ("activations.cuh", "(1.f + 3.f * CUBIC * x * x)", "(1.f + CUBIC * x * x)"),
    ("vectors.cuh", "from_float<T>(wide.value[v])", "from_float<T>(wide.value[0])"),
    ("sums.cu", "end = min(rows, first + split_rows)", "end = first + split_rows"),
    ("sums.cu", "splits * split_rows, end", "splits * (split_rows - 1), end"),
    ("sums.cu", "half = DEEP / 2", "half = DEEP / 4"),
    ("sums.cu", "        __syncthreads();\n", ""),
    ("resampling.cu", "(to - kernel) / stride + 1", "(to - kernel) / stride"),
    ("resampling.cu", "min(size - 1, to / stride)", "to / stride"),
    ("resampling.cu", "(to + 0.5f) / scale - 0.5f", "static_cast<float>(to) / scale"),
    ("resampling.cu", "min(2, size - first)", "2"),
    ("resampling.cu", "(to + 2) * scale", "(to + 1) * scale"),
    ("resampling.cu", "|| f != f", ""),
    ("resampling.cu", "c < (r == row ? column : left + window_columns)", "c < column"),
    ("resampling.cu", "column = pixel % columns;", "column = pixel % rows;"),
    (
        "softmax.cu",
        "if (LOG && threadIdx.x == 0) shifts[row] = shift;",
        "if (LOG && row == 0) shifts[row] = shift;",
    ),
    ("softmax.cu", "sum * expf(greatest - top)", "sum"),
    ("softmax.cu", "return {LOWEST, 0.f};", "return {0.f, 0.f};"),
    ("softmax.cu", "-3.402823466e38f", "-__builtin_inff()"),
    ("embedding.cu", "position < count && indices", "indices"),
    ("embedding.cu", "found &= found - 1", "found = 0"),
    ("embedding.cu", "row >= 0 && row < rows", "row >= 0 && row <= rows"),
]
