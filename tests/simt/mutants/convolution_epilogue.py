"""Bugs planted in how conv2d hands a shift and a residual to its kernels, and in their gradients."""

TESTS = ["tests/test_conv2d_sums.py"]

FILE = "minidiff_cupy/convolution.py"

MUTANTS = [
    (FILE, "contiguous(xp, shift)", "shift"),
    (FILE, "contiguous(xp, shift)", "None"),
    (FILE, "else channels_last(xp, residual)", "else residual.transpose(0, 2, 3, 1)"),
    (FILE, "lambda: _sum_pixels(xp, d, d.shape[0]),", "lambda: _sum_pixels(xp, d, 1),"),
    (FILE, "lambda: dy,", "lambda: _sum_pixels(xp, d, 1),"),
    (FILE, "n // max(1, parts) * h * w", "h * w"),
    (FILE, "n // max(1, parts)", "n // parts"),
]
