// Rows of queries, keys and values in shared memory, and the two products that attention makes of them.
//
// A warp owns 16 rows and goes through tiles of the other side. What it computes it holds in registers, as
// tensor cores do: with g = lane / 4 and t = lane % 4, at[j][2 h + e] is the number in row g + 8 h and column
// 8 j + 2 t + e.
#pragma once
#include "numbers.cuh"
#include "tensor_cores.cuh"
#include "vectors.cuh"

// WIDTH: numbers in a row, a multiple of 16, the last of them zeros; ROWS: of a block; TILE: of the other
// side at a time. EXACT multiplies in float32, else on tensor cores, float32 as TF32.
template <class T, bool EXACT_, int WIDTH_, int ROWS_, int TILE_>
struct Shape {
    using Element = T;
    static constexpr bool EXACT = EXACT_;
    static constexpr int WIDTH = WIDTH_, ROWS = ROWS_, TILE = TILE_;
    static constexpr int THREADS = ROWS / 16 * 32;
    static constexpr int PIECE = 16 / sizeof(T);
    static constexpr int LINE = WIDTH + PIECE;  // so that eight rows lie in different banks
};

template <int COLUMNS>
struct Fragments {
    float at[COLUMNS / 8][4] = {};
};

struct Lane {
    int number = threadIdx.x % 32;
    int g = number / 4, t = number % 4;
};

// A matrix with its rows `stride` numbers apart.
template <class T>
struct Matrix {
    T* data;
    long long stride;
    int rows, width;
};

template <class S, int ROWS, int NUMBERS, class T = typename S::Element>
__device__ __forceinline__ void copy_rows(T* tile, const Matrix<const T>& from, int first) {
    constexpr int ACROSS = S::WIDTH / NUMBERS;
    for (int i = threadIdx.x; i < ROWS * ACROSS; i += S::THREADS) {
        int row = i / ACROSS, column = i % ACROSS * NUMBERS;
        bool inside = first + row < from.rows && column < from.width;
        const T* source = from.data + (inside ? (first + row) * from.stride + column : 0);
        copy_async<NUMBERS * sizeof(T)>(tile + row * S::LINE + column, source, inside);
    }
}

// Begin to copy rows from `first` on, zeros where the matrix ends; `in_pieces` if all rows can be read 16
// bytes at a time.
template <class S, int ROWS, class T = typename S::Element>
__device__ __forceinline__ void load_rows(T* tile, const Matrix<const T>& from, int first, bool in_pieces) {
    if (in_pieces) {
        copy_rows<S, ROWS, S::PIECE>(tile, from, first);
    } else {
        copy_rows<S, ROWS, 1>(tile, from, first);
    }
}

// Results of the warp's 16 rows, of which the first is row `first` of the matrix. Rows of even length begin
// at even places.
template <class T, int WIDTH>
__device__ __forceinline__ void store_rows(const Matrix<T>& to, int first, const Fragments<WIDTH>& results) {
    Lane lane;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        int row = first + lane.g + 8 * h;
        if (row >= to.rows) continue;
#pragma unroll
        for (int j = 0; j < WIDTH / 8; ++j) {
            int column = 8 * j + 2 * lane.t;
            Floats<2> pair = {results.at[j][2 * h], results.at[j][2 * h + 1]};
            T* place = to.data + row * to.stride + column;
            if (to.width % 2 == 0 && column < to.width) {
                write_floats(place, pair);
            } else {
                if (column < to.width) place[0] = from_float<T>(pair.value[0]);
                if (column + 1 < to.width) place[1] = from_float<T>(pair.value[1]);
            }
        }
    }
}

// --- scores: 16 rows of one side by the rows of a tile of the other ---

template <class S>
__device__ __forceinline__ void add_scores_exactly(Fragments<S::TILE>& scores, const typename S::Element* own,
                                                   const typename S::Element* tile) {
    Lane lane;
#pragma unroll 2
    for (int k = 0; k < S::WIDTH; k += S::PIECE) {
        Floats<S::PIECE> rows[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) rows[h] = read_floats<S::PIECE>(own + (lane.g + 8 * h) * S::LINE + k);
#pragma unroll
        for (int j = 0; j < S::TILE / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                int row = 8 * j + 2 * lane.t + e;
                Floats<S::PIECE> column = read_floats<S::PIECE>(tile + row * S::LINE + k);
#pragma unroll
                for (int i = 0; i < S::PIECE; ++i) {
                    scores.at[j][e] += rows[0].value[i] * column.value[i];
                    scores.at[j][2 + e] += rows[1].value[i] * column.value[i];
                }
            }
        }
    }
}

template <class T, int N>
__device__ __forceinline__ void round_to_tf32(unsigned (&bits)[N]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < N; ++i) bits[i] = as_tf32(bits[i]);
    }
}

// Two neighbouring fragments of B from what load_matrices returns.
template <class T>
__device__ __forceinline__ void multiply_add_two(float (&c0)[4], float (&c1)[4], const unsigned (&a)[4],
                                                 const unsigned (&b)[4]) {
    const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
    multiply_add<T>(c0, a, first);
    multiply_add<T>(c1, a, second);
}

template <class S, class T = typename S::Element>
__device__ __forceinline__ void add_scores_on_tensor_cores(Fragments<S::TILE>& scores, const T* own,
                                                           const T* tile) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < S::WIDTH; k += 2 * S::PIECE) {
        unsigned a[4], b[4];
        load_matrices(a, own + lane % 16 * S::LINE + k + lane / 16 * S::PIECE);
        round_to_tf32<T>(a);
#pragma unroll
        for (int j = 0; j < S::TILE / 8; j += 2) {
            int row = 8 * j + lane / 16 * 8 + lane % 8;
            load_matrices(b, tile + row * S::LINE + k + lane / 8 % 2 * S::PIECE);
            round_to_tf32<T>(b);
            multiply_add_two<T>(scores.at[j], scores.at[j + 1], a, b);
        }
    }
}

// scores += own tile^T
template <class S>
__device__ __forceinline__ void add_scores(Fragments<S::TILE>& scores, const typename S::Element* own,
                                           const typename S::Element* tile) {
    if constexpr (S::EXACT) {
        add_scores_exactly<S>(scores, own, tile);
    } else {
        add_scores_on_tensor_cores<S>(scores, own, tile);
    }
}

// --- mixtures: the rows of a tile, weighed by scores ---

template <class S>
__device__ __forceinline__ void add_mixture_exactly(Fragments<S::WIDTH>& sums,
                                                    const Fragments<S::TILE>& weights,
                                                    const typename S::Element* tile) {
    Lane lane;
#pragma unroll
    for (int k = 0; k < S::TILE; ++k) {
        int owner = lane.g * 4 + k % 8 / 2;
        float upper = __shfl_sync(0xffffffffu, weights.at[k / 8][k % 2], owner);
        float lower = __shfl_sync(0xffffffffu, weights.at[k / 8][2 + k % 2], owner);
#pragma unroll
        for (int n = 0; n < S::WIDTH / 8; ++n) {
            Floats<2> pair = read_floats<2>(tile + k * S::LINE + 8 * n + 2 * lane.t);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                sums.at[n][e] += upper * pair.value[e];
                sums.at[n][2 + e] += lower * pair.value[e];
            }
        }
    }
}

template <class T>
__device__ __forceinline__ unsigned pack(float low, float high) {
    return from_float<T>(low).bits | static_cast<unsigned>(from_float<T>(high).bits) << 16;
}

// Fragments of results are fragments of A when neighbours are packed.
template <class S, class T = typename S::Element>
__device__ __forceinline__ void add_mixture_of_halves(Fragments<S::WIDTH>& sums,
                                                      const Fragments<S::TILE>& weights, const T* tile) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < S::TILE; k += 16) {
        const float(&left)[4] = weights.at[k / 8], (&right)[4] = weights.at[k / 8 + 1];
        const unsigned a[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]),
                               pack<T>(right[0], right[1]), pack<T>(right[2], right[3])};
#pragma unroll
        for (int n = 0; n < S::WIDTH / 8; n += 2) {
            unsigned b[4];
            load_transposed_matrices(b, tile + (k + lane % 16) * S::LINE + 8 * n + lane / 16 * 8);
            multiply_add_two<T>(sums.at[n], sums.at[n + 1], a, b);
        }
    }
}

// The order of the inner axis is free: with columns 2 t and 2 t + 1 in the places of t and t + 4, fragments
// of results are fragments of A.
template <class S>
__device__ __forceinline__ void add_mixture_of_floats(Fragments<S::WIDTH>& sums,
                                                      const Fragments<S::TILE>& weights, const float* tile) {
    Lane lane;
#pragma unroll
    for (int k = 0; k < S::TILE; k += 8) {
        const float(&w)[4] = weights.at[k / 8];
        unsigned a[4] = {__float_as_uint(w[0]), __float_as_uint(w[2]),  //
                         __float_as_uint(w[1]), __float_as_uint(w[3])};
        round_to_tf32<float>(a);
        const float* rows = tile + (k + 2 * lane.t) * S::LINE + lane.g;
#pragma unroll
        for (int n = 0; n < S::WIDTH / 8; ++n) {
            unsigned b[2] = {__float_as_uint(rows[8 * n]), __float_as_uint(rows[S::LINE + 8 * n])};
            round_to_tf32<float>(b);
            multiply_add<float>(sums.at[n], a, b);
        }
    }
}

// sums += weights tile
template <class S>
__device__ __forceinline__ void add_mixture(Fragments<S::WIDTH>& sums, const Fragments<S::TILE>& weights,
                                            const typename S::Element* tile) {
    if constexpr (S::EXACT) {
        add_mixture_exactly<S>(sums, weights, tile);
    } else if constexpr (sizeof(typename S::Element) == 2) {
        add_mixture_of_halves<S>(sums, weights, tile);
    } else {
        add_mixture_of_floats<S>(sums, weights, tile);
    }
}
