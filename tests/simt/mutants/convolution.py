"""Bugs planted in convolution and linear."""

TESTS = ["tests/test_simt_convolution.py"]

MUTANTS = [
    # the loop over stages
    ("gemm.cuh", "__syncthreads();  // the stage has come", "// the stage has come"),
    ("gemm.cuh", "wait_for_copies<S::STAGES - 2>();", "wait_for_copies<S::STAGES - 1>();"),
    ("gemm.cuh", "load(step + S::STAGES - 1);", "load(step + S::STAGES);"),
    (
        "gemm.cuh",
        "shared + step % S::STAGES * BYTES;\n        if (step",
        "shared + step % 2 * BYTES;\n        if (step",
    ),
    ("gemm.cuh", "(piece ^ (line >> 1 & 3)) << 4", "(piece ^ (line >> 1 & 7)) << 4"),
    ("gemm.cuh", "sizeof(T) == 2 ? row & 7 : (row & 3) << 1", "sizeof(T) == 2 ? row & 7 : (row & 31) << 1"),
    ("gemm.cuh", "if (low >= lows) low -= lows, middle++;", "if (low > lows) low -= lows, middle++;"),
    ("gemm.cuh", "at.column + j * 8 + at.lane / 16 * 8 + at.lane % 8", "at.column + j * 8 + at.lane % 16"),
    (
        "gemm.cuh",
        "for (int e = 0; e < 4; e++) a[i][e] = as_tf32(a[i][e]);",
        "for (int e = 0; e < 4; e++) a[i][e] &= ~0u << 15;",
    ),
    # what is copied
    (
        "conv_correlate.cuh",
        "part.ys.origin + part.ys.stride * pixels.down(row)",
        "part.ys.origin + 1 + part.ys.stride * pixels.down(row)",
    ),
    (
        "conv_correlate.cuh",
        "part.xs.origin + part.xs.stride * pixels.along(row)",
        "part.xs.origin + pixels.along(row)",
    ),
    (
        "conv_correlate.cuh",
        "static_cast<unsigned>(column) < static_cast<unsigned>(part.xs.sources)",
        "column < part.xs.sources",
    ),
    (
        "conv_correlate.cuh",
        "static_cast<unsigned>(row) < static_cast<unsigned>(part.ys.sources)",
        "row >= 0 && row <= part.ys.sources",
    ),
    ("conv_correlate.cuh", "wanted && channel + e < part.channels", "wanted"),
    ("conv_correlate.cuh", "channel += S::DEPTH;", "channel += S::DEPTH / 2;"),
    ("conv_correlate.cuh", "tap = part.first_step % taps;", "tap = 0;"),
    ("conv_correlate.cuh", "place % 8 / 2 * PIECE + place / 8 * 2", "place % 8 / 2 * 2 + place / 8 * PIECE"),
    ("conv_correlate.cuh", "part.first_step / taps * S::DEPTH", "part.first_step * S::DEPTH"),
    # what is written
    ("conv_correlate.cuh", "if (line >= part.pixels.rows) continue;", ""),
    ("conv_correlate.cuh", "if (first + e < count) to[first + e]", "to[first + e]"),
    ("conv_correlate.cuh", "part.columns % PIECE == 0", "part.columns % 2 == 0"),
    ("conv_correlate.cuh", "layer = out.partial + blockIdx.y *", "layer = out.partial + 0 *"),
    ("conv_correlate.cuh", "sums[j][2 + e] += value;", ""),
    ("conv_extras.cuh", "if (residual) sums[e]", "if (shift) sums[e]"),
    ("conv_correlate.cu", "__syncthreads();  // `places`", "// `places`"),
    # phases of the transpose
    (
        "conv_geometry.cuh",
        "while (a.dilation * tap_step % a.stride != 0) tap_step++;",
        "tap_step = a.stride;",
    ),
    ("conv_geometry.cuh", "ceil_div(a.kernel - first_tap, tap_step)", "(a.kernel - first_tap) / tap_step"),
    ("conv_geometry.cuh", "-tap_step * a.dilation / a.stride", "-tap_step / a.stride"),
    ("conv_geometry.cuh", "first_tap < tap_step && first_tap < a.kernel", "first_tap < a.kernel"),
    # wgmma; the loop over stages is in convolution_filters
    ("conv_correlate_wgmma.cu", "add || byte > 0", "add"),
    ("conv_correlate_wgmma.cu", "(piece ^ (line & 7)) << 4", "(piece ^ (line & 3)) << 4"),
    ("conv_correlate_wgmma.cu", "threadIdx.x / 128 * 64 * LINE;", "0;"),
    # the gradient of the filters, and sums of parts
    ("conv_filters.cuh", "pixel < last && filter + e < p.filters", "filter + e < p.filters"),
    ("conv_filters.cuh", "pixel += S::DEPTH;", "pixel += S::DEPTH + 1;"),
    ("conv_filters.cuh", "pixel.middle * p.y.stride - p.y.padding", "pixel.middle - p.y.padding"),
    ("conv_filters.cuh", "now.middle * p.x.dilation", "now.middle"),
    ("conv_filters.cuh", "if (filter >= p.filters) continue;", ""),
    ("conv_filters.cuh", "columns % 2 == 0 && place < columns", "place < columns"),
    ("conv_finish.cu", "layer < layers", "layer < layers - 1"),
    ("conv_finish.cu", "i / image_size * channels + channel", "channel"),
]
