// The gradient of the filters as a matrix product: rows are filters, columns taps and, fastest, channels, and
// the inner axis runs over the pixels of all results, in parts. Images are NHWC, filters OHWI.
#pragma once
#include "conv_geometry.cuh"
#include "gemm.cuh"

// What a block computes: a tile of S::M x S::N, over a part of the pixels.
template <class S>
struct Part {
    int group, columns;  // of a group: taps times channels
    int first_filter, first_column;
    long long first, last;  // pixels of the results

    // Grid: tiles, those of the same filters side by side; parts of the pixels; groups.
    __device__ static Part of_block(const Geometry& p) {
        const int columns = p.y.kernel * p.x.kernel * p.channels, across = ceil_div(columns, S::N);
        const long long pixels = static_cast<long long>(p.images) * p.y.outputs * p.x.outputs;
        const long long stages = (pixels + S::DEPTH - 1) / S::DEPTH;
        const long long share = (stages + gridDim.y - 1) / gridDim.y * S::DEPTH;
        const long long first = min(pixels, blockIdx.y * share);
        return {static_cast<int>(blockIdx.z),
                columns,
                static_cast<int>(blockIdx.x) / across * S::M,
                static_cast<int>(blockIdx.x) % across * S::N,
                first,
                min(pixels, first + share)};
    }

    __device__ int steps() const { return static_cast<int>((last - first + S::DEPTH - 1) / S::DEPTH); }
};

// A thread's pieces of 16 bytes in a stage of columns WIDTH elements wide: one in every LINES-th line.
template <class S, int WIDTH>
struct Pieces {
    static constexpr int ACROSS = WIDTH / S::PIECE;
    static constexpr int LINES = S::THREADS / ACROSS;  // that are copied at the same time
    static constexpr int COUNT = S::DEPTH / LINES;
    static_assert(COUNT * LINES == S::DEPTH, "threads and lines");

    int line = threadIdx.x / ACROSS, piece = threadIdx.x % ACROSS;

    __device__ typename S::Element* in(unsigned char* stage, int i) const {
        const int offset = S::column_offset(WIDTH, line + i * LINES, piece);
        return reinterpret_cast<typename S::Element*>(stage + offset);
    }
};

// Copies stages in columns: every line is a pixel of the result, with its filters (A) and with the channels
// that its taps meet in the image (B).
template <class S, int VECTOR>
struct Loader {
    using T = typename S::Element;
    using Filters = Pieces<S, S::M>;
    using Taps = Pieces<S, S::N>;

    const Geometry& p;
    const T *image, *result;  // of this group
    const long long image_pitch, result_pitch;
    const long long last;     // pixel of the results
    long long pixel;          // that the next stage begins with
    Odometer at[Taps::COUNT]; // of the lines of B: along, down, image
    Odometer stride;
    int filter;               // the first of the piece of A
    Odometer tap;             // the first of the piece of B: channel, along, down

    __device__ Loader(const T* image, const T* result, const Geometry& p, const Part<S>& part)
        : p(p),
          image(image + part.group * p.channels),
          result(result + part.group * p.filters),
          image_pitch(static_cast<long long>(p.channels) * p.groups),
          result_pitch(static_cast<long long>(p.filters) * p.groups),
          last(part.last),
          pixel(part.first) {
        const Taps b;
#pragma unroll
        for (int i = 0; i < Taps::COUNT; i++)
            at[i] = Odometer::of(pixel + b.line + i * Taps::LINES, p.x.outputs, p.y.outputs);
        stride = Odometer::of(S::DEPTH, p.x.outputs, p.y.outputs);
        filter = part.first_filter + Filters().piece * S::PIECE;
        tap = Odometer::of(part.first_column + b.piece * S::PIECE, p.channels, p.x.kernel);
    }

    __device__ void load(unsigned char* a, unsigned char* b) {
        const Filters filters;
        const Taps taps;
#pragma unroll
        for (int i = 0; i < Filters::COUNT; i++)
            copy_results(filters.in(a, i), pixel + filters.line + i * Filters::LINES);
#pragma unroll
        for (int i = 0; i < Taps::COUNT; i++) {
            copy_image(taps.in(b, i), at[i], pixel + taps.line + i * Taps::LINES < last);
            at[i].add(stride, p.x.outputs, p.y.outputs);
        }
        pixel += S::DEPTH;
    }

    __device__ void copy_results(T* to, long long pixel) const {
#pragma unroll
        for (int e = 0; e < S::PIECE; e += VECTOR) {
            const bool wanted = pixel < last && filter + e < p.filters;
            const T* from = wanted ? result + pixel * result_pitch + filter + e : result;
            copy_async<VECTOR * sizeof(T)>(to + e, from, wanted);
        }
    }

    __device__ void copy_image(T* to, const Odometer& pixel, bool inside) const {
        Odometer now = tap;
#pragma unroll
        for (int e = 0; e < S::PIECE; e += VECTOR) {
            const int y = pixel.middle * p.y.stride - p.y.padding + now.high * p.y.dilation;
            const int x = pixel.low * p.x.stride - p.x.padding + now.middle * p.x.dilation;
            const bool wanted = inside && static_cast<unsigned>(y) < static_cast<unsigned>(p.y.inputs) &&
                                static_cast<unsigned>(x) < static_cast<unsigned>(p.x.inputs);
            const long long place = (static_cast<long long>(pixel.high) * p.y.inputs + y) * p.x.inputs + x;
            const T* from = wanted ? image + place * image_pitch + now.low : image;
            copy_async<VECTOR * sizeof(T)>(to + e, from, wanted);
            if (VECTOR < S::PIECE) now.add({VECTOR, 0, 0}, p.channels, p.x.kernel);
        }
    }
};

// Write what a thread has of 16 rows of a tile, to the layer of its part in `partial` (parts, O, KH, KW, C):
// with g = lane / 4 and t = lane % 4, sums[j][2 h + e] is the sum of row `row` + 8 h + g and column `column`
// + 8 j + 2 t + e.
template <class S, int ACROSS>
__device__ void write_rows(float* partial, const Part<S>& part, const Geometry& p,
                           const float (&sums)[ACROSS][4], int row, int column) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, columns = part.columns;
    float* layer = partial + static_cast<long long>(blockIdx.y) * p.groups * p.filters * columns;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int filter = part.first_filter + row + 8 * h + g;
        if (filter >= p.filters) continue;
        float* line = layer + (static_cast<long long>(part.group) * p.filters + filter) * columns;
#pragma unroll
        for (int j = 0; j < ACROSS; j++) {
            const int place = part.first_column + column + j * 8 + t * 2;
            const float* pair = &sums[j][2 * h];
            if (columns % 2 == 0 && place < columns) {
                *reinterpret_cast<Vector<float, 2>*>(line + place) = {pair[0], pair[1]};
            } else {
                if (place < columns) line[place] = pair[0];
                if (place + 1 < columns) line[place + 1] = pair[1];
            }
        }
    }
}
