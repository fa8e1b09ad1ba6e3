"""Bugs planted in the gradient of a convolution's filters by wgmma."""

MUTANTS = [
    # the loop over stages, which other convolutions have, too
    ("wgmma.cuh", "wait_for_products<1>();", "wait_for_products<2>();"),
    ("wgmma.cuh", "    wait_for_products<0>();\n", ""),
    ("wgmma.cuh", "AHEAD = S::STAGES - 2;", "AHEAD = S::STAGES - 1;"),
    ("wgmma.cuh", "wait_for_copies<AHEAD - 1>();", "wait_for_copies<AHEAD>();"),
    ("wgmma.cuh", "__syncthreads();  // the stage has come", "// the stage has come"),
    ("wgmma.cuh", "load(step + AHEAD);", "load(step + AHEAD + 1);"),
    ("wgmma.cuh", "S::STAGES * BYTES, step > 0);", "S::STAGES * BYTES, true);"),
    ("conv_filters_wgmma.cu", "add || byte > 0", "add"),
    # where numbers lie in shared memory
    ("conv_filters_wgmma.cu", "(piece % 8 ^ row % 8) << 4", "(piece % 8 ^ row % 4) << 4"),
    ("conv_filters_wgmma.cu", "piece / 8 * COLUMNS_BYTES", "piece / 8 * 1024"),
    ("conv_filters_wgmma.cu", "threadIdx.x / 128 * COLUMNS_BYTES;", "0;"),
    ("conv_filters_wgmma.cu", "byte += 16 * LINE", "byte += 8 * LINE"),
    ("wgmma.cuh", "descriptor(b, NEXT, 1024), add", "descriptor(b, 16, 1024), add"),
    (
        "wgmma.cuh",
        "descriptor(a, NEXT, 1024), descriptor(b, NEXT",
        "descriptor(a, NEXT, NEXT), descriptor(b, NEXT",
    ),
    ("wgmma.cuh", ">> 4 << 16;", ">> 4 << 18;"),
    ("wgmma.cuh", "| 1ull << 62", "| 2ull << 62"),
    # what is copied
    ("conv_filters.cuh", "pixel + taps.line + i * Taps::LINES < last", "pixel + i * Taps::LINES < last"),
    ("conv_filters.cuh", "pixel + filters.line + i * Filters::LINES", "pixel + filters.line + i"),
    (
        "conv_filters.cuh",
        "at[i].add(stride, p.x.outputs, p.y.outputs);",
        "at[i].add(stride, p.x.outputs, p.x.outputs);",
    ),
    ("conv_filters.cuh", "line + i * LINES, piece", "line + i * LINES, piece / 8 * 8 + (piece + i) % 8"),
    ("conv_filters.cuh", "image(image + part.group * p.channels)", "image(image)"),
    ("conv_filters.cuh", "min(pixels, first + share)", "pixels"),
    # what is written
    ("conv_filters_wgmma.cu", "threadIdx.x / 32 * 16, 0", "threadIdx.x / 32 * 16 % 64, 0"),
    ("conv_filters.cuh", "blockIdx.y) * p.groups * p.filters * columns", "blockIdx.y) * p.filters * columns"),
    # what it is used for, and how it is cut
    (
        "minidiff_cupy/products.py",
        "engine.capability(xp) == 90 and vector > 1 and itemsize == 2",
        "engine.capability(xp) >= 90 and vector > 1 and itemsize == 2",
    ),
    (
        "minidiff_cupy/products.py",
        "engine.capability(xp) == 90 and vector > 1 and itemsize == 2",
        "engine.capability(xp) == 90 and itemsize == 2",
    ),
    ("minidiff_cupy/products.py", "max(1, min(parts, most))", "max(1, min(parts, steps))"),
    ("minidiff_cupy/products.py", "parts = -(-steps // share)", "parts = max(1, min(parts, most))"),
]
