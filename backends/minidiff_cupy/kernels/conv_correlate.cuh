// Convolution as a matrix product whose left side is never made ("implicit GEMM"): rows are pixels of the
// result, columns filters, and the inner axis runs over taps and channels: over all taps for a stage's
// channels, then on to the next channels, so that the pixels of one tap are still in the L1 cache for the
// others. Images are NHWC, filters OHWI.
//
// The transpose, which is the gradient of the image and the transposed convolution, is the same product with
// taps that walk backwards and filters IHWO; with a stride, every phase of the pixels is a product with its
// own part of the taps.
#pragma once
#include "conv_extras.cuh"
#include "conv_geometry.cuh"
#include "gemm.cuh"

// Above any image, with any taps.
constexpr int ABOVE = -(1 << 30);

// The rows of a tile: pixels of one phase of the result.
struct Pixels {
    Walk y, x;
    long long first;  // image and, in it, pixel that the tile begins with
    int rest;
    int rows;  // of this tile and those after it

    __device__ Pixels(const Walk& y, const Walk& x, int images, long long row) : y(y), x(x) {
        const int area = y.results * x.results;
        first = area ? row / area : 0;
        rest = static_cast<int>(row - first * area);
        rows = static_cast<int>(min(static_cast<long long>(images) * area - row, 1ll << 20));
    }

    __device__ long long image(int row) const { return first + (rest + row) / (y.results * x.results); }
    __device__ int down(int row) const { return (rest + row) % (y.results * x.results) / x.results; }
    __device__ int along(int row) const { return (rest + row) % x.results; }

    // Of a pixel in the whole result.
    __device__ long long place(int row) const {
        const int row_of_image = y.first_pixel + y.pixel_step * down(row);
        return (image(row) * y.all + row_of_image) * x.all + x.first_pixel + x.pixel_step * along(row);
    }
};

// What a block computes: a tile of M x N, and of the inner axis a part.
template <int M, int N>
struct Part {
    Walk ys, xs;
    int group, channels, columns;  // of a group: channels of the image, filters
    int first_column;
    Pixels pixels;
    int first_step, steps;

    // Grid: tiles, those of the same pixels side by side; parts of the inner axis; groups times phases.
    // A step is a stage.
    __device__ static Part of_block(const Geometry& p, bool spread, int depth) {
        const int phases = spread ? p.y.stride * p.x.stride : 1, phase = blockIdx.z % phases;
        const Walk ys = spread ? Walk::spreading(p.y, phase / p.x.stride) : Walk::correlating(p.y);
        const Walk xs = spread ? Walk::spreading(p.x, phase % p.x.stride) : Walk::correlating(p.x);
        const int columns = spread ? p.channels : p.filters, channels = spread ? p.filters : p.channels;
        const int across = ceil_div(columns, N), all_steps = ys.taps * xs.taps * ceil_div(channels, depth);
        const int share = ceil_div(all_steps, gridDim.y), first_step = min(all_steps, blockIdx.y * share);
        return {ys,
                xs,
                static_cast<int>(blockIdx.z) / phases,
                channels,
                columns,
                static_cast<int>(blockIdx.x) % across * N,
                Pixels(ys, xs, p.images, static_cast<long long>(blockIdx.x / across) * M),
                first_step,
                min(share, all_steps - first_step)};
    }
};

// Columns of a tile are dealt out to filters so that every thread has 16 bytes of neighbouring results.
template <class T>
__device__ inline int filter_of_column(int column) {
    constexpr int PIECE = 16 / sizeof(T);
    const int place = column % (4 * PIECE);
    return column - place + place % 8 / 2 * PIECE + place / 8 * 2 + place % 2;
}

// Copies stages of a tile S. Every thread has one piece of 16 bytes in some lines of A, the image, and of B,
// the filters, VECTOR elements of it at a time. Past the last step they are zeros.
template <class S, int VECTOR>
struct Loader {
    using T = typename S::Element;
    static constexpr int PIECES = S::LINE / 16;
    static constexpr int LINES = S::THREADS / PIECES;  // that are copied at the same time
    static constexpr int DOWN = S::M / LINES, ACROSS = S::N / LINES;
    static_assert(DOWN * LINES == S::M && ACROSS * LINES == S::N, "threads and lines");
    static_assert(LINES % (4 * S::PIECE) == 0, "filter_of_column adds LINES to a column as it is");

    const Part<S::M, S::N>& part;
    const Geometry& p;
    const T* source[DOWN];  // images
    int y[DOWN], x[DOWN];   // where tap 0 falls
    const T* filter;        // of the first line
    int filters_left;       // from there on
    int channel;            // of this thread's piece
    int tap_y, tap_x;       // the same for all threads

    __device__ Loader(const T* image, const T* filters, const Geometry& p, const Part<S::M, S::N>& part)
        : part(part), p(p) {
        const int line = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
        const Pixels& pixels = part.pixels;
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
            const int row = line + i * LINES;
            const bool inside = row < pixels.rows;
            source[i] = image + part.group * part.channels;
            if (inside) source[i] += pixels.image(row) * part.ys.sources * part.xs.sources * pitch();
            y[i] = inside ? part.ys.origin + part.ys.stride * pixels.down(row) : ABOVE;
            x[i] = part.xs.origin + part.xs.stride * pixels.along(row);
        }
        const int column = part.first_column + filter_of_column<T>(line);
        filters_left = part.columns - column;
        filter = filters + (static_cast<long long>(part.group) * part.columns + column) * filter_size();
        const int taps = max(1, part.ys.taps * part.xs.taps), tap = part.first_step % taps;
        channel = part.steps > 0 ? part.first_step / taps * S::DEPTH + piece * S::PIECE : part.channels;
        tap_y = tap / max(1, part.xs.taps);
        tap_x = tap % max(1, part.xs.taps);
    }

    // Elements from pixel to pixel of the image, and from filter to filter.
    __device__ long long pitch() const { return static_cast<long long>(part.channels) * p.groups; }
    __device__ long long filter_size() const {
        return static_cast<long long>(p.y.kernel) * p.x.kernel * part.channels;
    }

    __device__ void load(unsigned char* a, unsigned char* b) {
        load_image(a);
        load_filters(b);
        if (++tap_x < part.xs.taps) return;
        tap_x = 0;
        if (++tap_y < part.ys.taps) return;
        tap_y = 0;
        channel += S::DEPTH;
    }

    __device__ void load_image(unsigned char* stage) const {
        const int down = part.ys.reach * tap_y, along = part.xs.reach * tap_x;
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
            const int row = y[i] + down, column = x[i] + along;
            const bool hit = static_cast<unsigned>(row) < static_cast<unsigned>(part.ys.sources) &&
                             static_cast<unsigned>(column) < static_cast<unsigned>(part.xs.sources);
            copy<true>(stage, i, source[i] + (hit ? row * part.xs.sources + column : 0) * pitch(), hit);
        }
    }

    __device__ void load_filters(unsigned char* stage) const {
        const int row = part.ys.first_tap + part.ys.tap_step * tap_y;
        const int column = part.xs.first_tap + part.xs.tap_step * tap_x;
        const T* from = filter + (row * p.x.kernel + column) * static_cast<long long>(part.channels);
#pragma unroll
        for (int i = 0; i < ACROSS; i++) {
            copy<false>(stage, i, from + i * LINES * filter_size(), i * LINES < filters_left);
        }
    }

    template <bool AGAIN>
    __device__ void copy(unsigned char* stage, int i, const T* from, bool wanted) const {
        const int line = threadIdx.x / PIECES + i * LINES, piece = threadIdx.x % PIECES;
        T* to = reinterpret_cast<T*>(stage + S::line_offset(line, piece));
#pragma unroll
        for (int e = 0; e < S::PIECE; e += VECTOR) {
            const bool here = wanted && channel + e < part.channels;
            copy_async<VECTOR * sizeof(T), AGAIN>(to + e, here ? from + channel + e : source[0], here);
        }
    }
};

// Write neighbouring results: 16 bytes at a time if all of them are `whole`, or the first `count` one by one.
template <class T, int N>
__device__ void write_piece(T* to, const float (&piece)[N], bool whole, int count) {
    constexpr int VECTOR = 16 / sizeof(T);
#pragma unroll
    for (int first = 0; first < N; first += VECTOR) {
        Vector<T, VECTOR> vector;
#pragma unroll
        for (int e = 0; e < VECTOR; e++) vector.element[e] = from_float<T>(piece[first + e]);
        if (whole) {
            write(to + first, vector);
        } else {
#pragma unroll
            for (int e = 0; e < VECTOR; e++)
                if (first + e < count) to[first + e] = vector.element[e];
        }
    }
}

// Where results go: to a layer of `partial`, for conv_finish.cu, which adds bias and extras; to `y` if null.
template <class T>
struct Output {
    T* y;
    float* partial;
    Extras<T> extras;
};

// Write what a thread has of a tile S: with g = lane / 4 and t = lane % 4, sums[j][2 h + e] is the sum of row
// `row` + 8 h + g and column `column` + 8 j + 2 t + e. `places` are those of the tile's pixels in the result.
template <class S, bool EXTRAS, int ACROSS>
__device__ void write_rows(const Output<typename S::Element>& out, const Part<S::M, S::N>& part,
                           const Geometry& p, const long long (&places)[S::M],
                           const float (&sums)[ACROSS][4], int row, int column) {
    using T = typename S::Element;
    constexpr int PIECE = S::PIECE;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, channels = part.columns * p.groups;
    const bool whole = part.columns % PIECE == 0;
    float* layer = out.partial + blockIdx.y * p.images * part.ys.all * part.xs.all * channels;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int line = row + 8 * h + g;
        if (line >= part.pixels.rows) continue;
#pragma unroll
        for (int j = 0; j < ACROSS; j += PIECE / 2) {
            const int filter = part.first_column + filter_of_column<T>(column + j * 8 + t * 2);
            const int left = part.columns - filter;
            if (left <= 0) continue;
            const int channel = part.group * part.columns + filter;
            const long long index = places[line] * channels + channel;
            float piece[PIECE];
#pragma unroll
            for (int e = 0; e < PIECE; e++) piece[e] = sums[j + e / 2][2 * h + e % 2];
            if (out.partial) {
                write_piece(layer + index, piece, whole, left);
            } else {
                if (EXTRAS) {
                    out.extras.apply(piece, left, part.pixels.image(line) * channels + channel, index);
                }
                write_piece(out.y + index, piece, whole, left);
            }
        }
    }
}

// Add the bias of its filters to what a thread has of a tile; see write_rows.
template <class S, int ACROSS>
__device__ void add_bias(float (&sums)[ACROSS][4], const typename S::Element* bias,
                         const Part<S::M, S::N>& part, int column) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < ACROSS; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int filter =
                part.first_column + filter_of_column<typename S::Element>(column + j * 8 + t * 2 + e);
            const bool inside = filter < part.columns;
            const float value = inside ? to_float(bias[part.group * part.columns + filter]) : 0.0f;
            sums[j][e] += value;
            sums[j][2 + e] += value;
        }
}
