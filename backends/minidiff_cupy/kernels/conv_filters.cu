// The gradient of the filters as a matrix product: rows are filters, columns taps and, fastest, channels, and
// the inner axis runs over the pixels of all results, in parts. Images are NHWC, filters OHWI.
#include "conv_geometry.cuh"

// Copies stages in columns: every line is a pixel of the result, with its filters (A) and with the channels
// that its taps meet in the image (B). A thread has one piece of 16 bytes in some lines of both.
template <class S, int VECTOR>
struct Loader {
    using T = typename S::Element;
    static_assert(S::M == S::N, "a thread has the same piece of A and of B");
    static constexpr int PIECES = S::M / S::PIECE;
    static constexpr int LINES = S::THREADS / PIECES;  // that are copied at the same time
    static constexpr int COUNT = S::DEPTH / LINES;
    static_assert(COUNT * LINES == S::DEPTH, "threads and lines");

    const Geometry& p;
    const T *image, *result;  // of this group
    const long long image_pitch, result_pitch;
    const long long last;   // pixel of the results
    long long pixel;        // in this thread's first line
    Odometer at[COUNT];     // along, down, image
    Odometer stride;
    int filter;             // the first of the piece of A
    Odometer tap;           // the first of the piece of B: channel, along, down

    __device__ Loader(const T* image, const T* result, const Geometry& p, int group, int first_filter,
                      int first_column, long long first, long long last)
        : p(p),
          image(image + group * p.channels),
          result(result + group * p.filters),
          image_pitch(static_cast<long long>(p.channels) * p.groups),
          result_pitch(static_cast<long long>(p.filters) * p.groups),
          last(last) {
        const int line = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
        pixel = first + line;
#pragma unroll
        for (int i = 0; i < COUNT; i++) at[i] = Odometer::of(pixel + i * LINES, p.x.outputs, p.y.outputs);
        stride = Odometer::of(S::DEPTH, p.x.outputs, p.y.outputs);
        filter = first_filter + piece * S::PIECE;
        tap = Odometer::of(first_column + piece * S::PIECE, p.channels, p.x.kernel);
    }

    __device__ void load(unsigned char* a, unsigned char* b) {
        const int line = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int offset = column_offset<T>(S::M, line + i * LINES, piece);
            copy_results(reinterpret_cast<T*>(a + offset), pixel + i * LINES);
            copy_image(reinterpret_cast<T*>(b + offset), at[i], pixel + i * LINES < last);
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

// Grid: tiles; parts of the pixels, each with its own layer of `partial` (layers, O, KH, KW, C); groups.
template <class T, int M, int N, int WARP_M, int WARP_N, int STAGES, bool EXACT, int VECTOR>
__global__ void __launch_bounds__(Tile<T, M, N, WARP_M, WARP_N, STAGES, EXACT>::THREADS)
filters_between(float* __restrict__ partial, const T* __restrict__ image, const T* __restrict__ result,
                Geometry p) {
    using S = Tile<T, M, N, WARP_M, WARP_N, STAGES, EXACT>;
    extern __shared__ __align__(128) unsigned char shared[];
    const int columns = p.y.kernel * p.x.kernel * p.channels, across = ceil_div(columns, N);
    const int first_filter = blockIdx.x / across * M, first_column = blockIdx.x % across * N;
    const int group = blockIdx.z;
    const long long pixels = static_cast<long long>(p.images) * p.y.outputs * p.x.outputs;
    const long long stages = (pixels + S::DEPTH - 1) / S::DEPTH, share = (stages + gridDim.y - 1) / gridDim.y;
    const long long first = min(pixels, blockIdx.y * share * S::DEPTH);
    const long long last = min(pixels, first + share * S::DEPTH);
    Sums<S> sums;
    Loader<S, VECTOR> loader(image, result, p, group, first_filter, first_column, first, last);
    accumulate<S, Columns>(sums, shared, loader, static_cast<int>((last - first + S::DEPTH - 1) / S::DEPTH));

    const Place<S> place;
    float* layer = partial + static_cast<long long>(blockIdx.y) * p.groups * p.filters * columns;
#pragma unroll
    for (int i = 0; i < S::DOWN * 2; i++) {
        const int filter = first_filter + place.row + i * 8 + place.g;
        if (filter >= p.filters) continue;
        float* line = layer + (static_cast<long long>(group) * p.filters + filter) * columns;
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++) {
            const int column = first_column + place.column + j * 8 + place.t * 2;
            const float* pair = &sums.at[i / 2][j][i % 2 * 2];
            if (columns % 2 == 0 && column < columns) {
                *reinterpret_cast<Vector<float, 2>*>(line + column) = {pair[0], pair[1]};
            } else {
                if (column < columns) line[column] = pair[0];
                if (column + 1 < columns) line[column + 1] = pair[1];
            }
        }
    }
}
