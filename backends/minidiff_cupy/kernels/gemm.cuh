// A tile of a matrix product: its stages in shared memory, the loop over them, and the products of its warps.
//
// A block makes M x N sums over an inner axis, 64 bytes of it in each stage. Stages hold A and B either in
// lines, the inner axis contiguous (an image's channels against filters), or in columns, M or N contiguous
// (pixels summed up in the gradient of the filters). Both are swizzled in units of 16 bytes so that no two
// lanes meet in a bank.
#pragma once
#include "numbers.cuh"
#include "tensor_cores.cuh"
#include "vectors.cuh"

// Shapes in elements: of the block, of each warp's part of it. EXACT: float32 is not multiplied as TF32.
template <class T, int M_, int N_, int WARP_M_, int WARP_N_, int STAGES_, bool EXACT_>
struct Tile {
    using Element = T;
    static constexpr int M = M_, N = N_, WARP_M = WARP_M_, WARP_N = WARP_N_, STAGES = STAGES_;
    static constexpr bool EXACT = EXACT_;
    static constexpr int LINE = 64;  // bytes of the inner axis in a stage
    static constexpr int THREADS = (M / WARP_M) * (N / WARP_N) * 32;
    static constexpr int PIECE = 16 / sizeof(T);
    static constexpr int DEPTH = LINE / sizeof(T);
    static constexpr int DOWN = WARP_M / 16, ACROSS = WARP_N / 8;  // fragments of a warp
    static constexpr int A_BYTES = M * LINE, B_BYTES = N * LINE;

    // Of 16 bytes in a stage of lines.
    __device__ static int line_offset(int line, int piece) {
        return line * LINE + ((piece ^ (line >> 1 & 3)) << 4);
    }

    // Of 16 bytes in a stage of columns `width` elements wide.
    __device__ static int column_offset(int width, int row, int piece) {
        const int turn = sizeof(T) == 2 ? row & 7 : (row & 3) << 1;
        return row * width * static_cast<int>(sizeof(T)) + ((piece ^ turn) << 4);
    }
};

// What a thread holds of its warp's results: with g = lane / 4 and t = lane % 4, at[i][j][2 h + e] is the one
// in row 16 i + 8 h + g and column 8 j + 2 t + e.
template <class S>
struct Sums {
    float at[S::DOWN][S::ACROSS][4] = {};
};

// Where a thread's warp begins in the tile, and which part of the fragments is the thread's.
template <class S>
struct Place {
    int lane = threadIdx.x % 32;
    int g = lane / 4, t = lane % 4;
    int row = threadIdx.x / 32 % (S::M / S::WARP_M) * S::WARP_M;
    int column = threadIdx.x / 32 / (S::M / S::WARP_M) * S::WARP_N;
};

template <class S>
__device__ inline void multiply_fragments(Sums<S>& sums, unsigned (&a)[S::DOWN][4],
                                          unsigned (&b)[S::ACROSS][2]) {
    if constexpr (sizeof(typename S::Element) == 4) {
#pragma unroll
        for (int i = 0; i < S::DOWN; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) a[i][e] = as_tf32(a[i][e]);
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) b[j][e] = as_tf32(b[j][e]);
    }
#pragma unroll
    for (int i = 0; i < S::DOWN; i++)
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++) multiply_add<typename S::Element>(sums.at[i][j], a[i], b[j]);
}

// Stages in lines.
template <class S>
struct Lines {
    using T = typename S::Element;

    __device__ static void multiply(Sums<S>& sums, const unsigned char* a, const unsigned char* b) {
        if constexpr (S::EXACT)
            exactly(sums, a, b);
        else
            on_tensor_cores(sums, a, b);
    }

    __device__ static void on_tensor_cores(Sums<S>& sums, const unsigned char* a, const unsigned char* b) {
        const Place<S> at;
#pragma unroll
        for (int piece = 0; piece < S::LINE / 16; piece += 2) {
            unsigned fa[S::DOWN][4], fb[S::ACROSS][2];
#pragma unroll
            for (int i = 0; i < S::DOWN; i++) {
                const int line = at.row + i * 16 + at.lane % 16;
                load_matrices(fa[i], a + S::line_offset(line, piece + at.lane / 16));
            }
#pragma unroll
            for (int j = 0; j < S::ACROSS; j += 2) {
                unsigned two[4];
                const int row = at.column + j * 8 + at.lane / 16 * 8 + at.lane % 8;
                load_matrices(two, b + S::line_offset(row, piece + at.lane / 8 % 2));
                fb[j][0] = two[0], fb[j][1] = two[1], fb[j + 1][0] = two[2], fb[j + 1][1] = two[3];
            }
            multiply_fragments<S>(sums, fa, fb);
        }
    }

    __device__ static void exactly(Sums<S>& sums, const unsigned char* a, const unsigned char* b) {
        using Piece = Vector<T, S::PIECE>;
        const Place<S> at;
#pragma unroll
        for (int piece = 0; piece < S::LINE / 16; piece++) {
            Piece rows[S::DOWN * 2];
#pragma unroll
            for (int i = 0; i < S::DOWN * 2; i++)
                rows[i] = *reinterpret_cast<const Piece*>(a + S::line_offset(at.row + i * 8 + at.g, piece));
#pragma unroll
            for (int j = 0; j < S::ACROSS * 2; j++) {
                const int row = at.column + j / 2 * 8 + at.t * 2 + j % 2;
                const Piece column = *reinterpret_cast<const Piece*>(b + S::line_offset(row, piece));
#pragma unroll
                for (int i = 0; i < S::DOWN * 2; i++)
#pragma unroll
                    for (int k = 0; k < S::PIECE; k++)
                        sums.at[i / 2][j / 2][i % 2 * 2 + j % 2] +=
                            to_float(rows[i].element[k]) * to_float(column.element[k]);
            }
        }
    }
};

// Stages in columns.
template <class S>
struct Columns {
    using T = typename S::Element;

    __device__ static const T& number(const unsigned char* stage, int width, int row, int column) {
        const int inside = column % S::PIECE * static_cast<int>(sizeof(T));
        const int offset = S::column_offset(width, row, column / S::PIECE) + inside;
        return *reinterpret_cast<const T*>(stage + offset);
    }

    __device__ static void multiply(Sums<S>& sums, const unsigned char* a, const unsigned char* b) {
        if constexpr (S::EXACT)
            exactly(sums, a, b);
        else
            on_tensor_cores(sums, a, b);
    }

    __device__ static void on_tensor_cores(Sums<S>& sums, const unsigned char* a, const unsigned char* b) {
#pragma unroll
        for (int half_of_line = 0; half_of_line < 2; half_of_line++) {
            unsigned fa[S::DOWN][4], fb[S::ACROSS][2];
            if constexpr (sizeof(T) == 2)
                load_halves(fa, fb, a, b, half_of_line * S::DEPTH / 2);
            else
                load_floats(fa, fb, a, b, half_of_line * S::DEPTH / 2);
            multiply_fragments<S>(sums, fa, fb);
        }
    }

    __device__ static void load_halves(unsigned (&fa)[S::DOWN][4], unsigned (&fb)[S::ACROSS][2],
                                       const unsigned char* a, const unsigned char* b, int row) {
        const Place<S> at;
#pragma unroll
        for (int i = 0; i < S::DOWN; i++) {
            const int r = row + at.lane / 16 * 8 + at.lane % 8;
            const int column = at.row + i * 16 + at.lane / 8 % 2 * 8;
            load_transposed_matrices(fa[i], a + S::column_offset(S::M, r, column / 8));
        }
#pragma unroll
        for (int j = 0; j < S::ACROSS; j += 2) {
            unsigned two[4];
            const int r = row + at.lane % 16, column = at.column + j * 8 + at.lane / 16 * 8;
            load_transposed_matrices(two, b + S::column_offset(S::N, r, column / 8));
            fb[j][0] = two[0], fb[j][1] = two[1], fb[j + 1][0] = two[2], fb[j + 1][1] = two[3];
        }
    }

    __device__ static void load_floats(unsigned (&fa)[S::DOWN][4], unsigned (&fb)[S::ACROSS][2],
                                       const unsigned char* a, const unsigned char* b, int row) {
        const Place<S> at;
#pragma unroll
        for (int i = 0; i < S::DOWN; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int r = row + at.t + e / 2 * 4, column = at.row + i * 16 + at.g + e % 2 * 8;
                fa[i][e] = __float_as_uint(number(a, S::M, r, column));
            }
#pragma unroll
        for (int j = 0; j < S::ACROSS; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int line = row + at.t + e * 4, column = at.column + j * 8 + at.g;
                fb[j][e] = __float_as_uint(number(b, S::N, line, column));
            }
    }

    __device__ static void exactly(Sums<S>& sums, const unsigned char* a, const unsigned char* b) {
        const Place<S> at;
#pragma unroll 4
        for (int k = 0; k < S::DEPTH; k++) {
            float rows[S::DOWN * 2];
#pragma unroll
            for (int i = 0; i < S::DOWN * 2; i++)
                rows[i] = to_float(number(a, S::M, k, at.row + i * 8 + at.g));
#pragma unroll
            for (int j = 0; j < S::ACROSS * 2; j++) {
                const int place = at.column + j / 2 * 8 + at.t * 2 + j % 2;
                const float column = to_float(number(b, S::N, k, place));
#pragma unroll
                for (int i = 0; i < S::DOWN * 2; i++) {
                    sums.at[i / 2][j / 2][i % 2 * 2 + j % 2] += rows[i] * column;
                }
            }
        }
    }
};

// The sums over `steps` stages. `loader.load(a, b)` begins to copy the next; STAGES - 1 are under way.
template <class S, template <class> class Layout, class Loader>
__device__ void accumulate(Sums<S>& sums, unsigned char* shared, Loader& loader, int steps) {
    constexpr int BYTES = S::A_BYTES + S::B_BYTES;
    auto load = [&](int step) {
        unsigned char* stage = shared + step % S::STAGES * BYTES;
        if (step < steps) loader.load(stage, stage + S::A_BYTES);
        commit_copies();
    };
    for (int step = 0; step < S::STAGES - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
        wait_for_copies<S::STAGES - 2>();
        __syncthreads();  // the stage has come for all, and nobody reads the one that is loaded next
        load(step + S::STAGES - 1);
        const unsigned char* stage = shared + step % S::STAGES * BYTES;
        Layout<S>::multiply(sums, stage, stage + S::A_BYTES);
    }
}

// A number of three digits, lowest first, that counts up in strides; the highest digit has no bound.
struct Odometer {
    int low, middle, high;

    __device__ static Odometer of(long long number, int lows, int middles) {
        const long long rest = number / lows;
        return {static_cast<int>(number % lows), static_cast<int>(rest % middles),
                static_cast<int>(rest / middles)};
    }

    __device__ void add(const Odometer& stride, int lows, int middles) {
        low += stride.low;
        middle += stride.middle;
        high += stride.high;
        if (low >= lows) low -= lows, middle++;
        if (middle >= middles) middle -= middles, high++;
    }
};

__device__ inline int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}
