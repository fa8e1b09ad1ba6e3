// Where the taps of a convolution fall.
#pragma once
#include "gemm.cuh"

// Rows or columns of a convolution, in pixels: of the image, of the result, of the filters.
struct Axis {
    int inputs, outputs, kernel, stride, padding, dilation;
};

struct Geometry {
    Axis y, x;
    int images;
    int channels, filters;  // of one group
    int groups;
};

// One axis of a correlation. Result i, which lies at pixel `first_pixel + pixel_step * i` of what is made,
// meets tap j, which is tap `first_tap + tap_step * j` of the filters, at pixel
// `origin + stride * i + reach * j` of what is read. These are `results` of `all` pixels that are made.
struct Walk {
    int all, results, first_pixel, pixel_step;
    int taps, first_tap, tap_step;
    int sources, origin, stride, reach;

    // Results from the image.
    __device__ static Walk correlating(const Axis& a) {
        return {a.outputs, a.outputs, 0, 1, a.kernel, 0, 1, a.inputs, -a.padding, a.stride, a.dilation};
    }

    // The transpose: the image from results. Output o meets tap r at o * stride + r * dilation - padding, so
    // pixels that are `stride` apart, of the same phase, meet the same taps, in every tap_step-th place.
    __device__ static Walk spreading(const Axis& a, int phase) {
        int tap_step = 1;
        while (a.dilation * tap_step % a.stride != 0) tap_step++;
        int first_tap = 0;
        while (first_tap < tap_step && (phase + a.padding - first_tap * a.dilation) % a.stride != 0) {
            first_tap++;
        }
        const bool met = first_tap < tap_step && first_tap < a.kernel;
        return {a.inputs,
                phase < a.inputs ? ceil_div(a.inputs - phase, a.stride) : 0,
                phase,
                a.stride,
                met ? ceil_div(a.kernel - first_tap, tap_step) : 0,
                first_tap,
                tap_step,
                a.outputs,
                met ? (phase + a.padding - first_tap * a.dilation) / a.stride : 0,
                1,
                -tap_step * a.dilation / a.stride};
    }
};
