// Convolution and its transpose by wgmma, for Hopper (sm_90a).
#include "conv_correlate.cuh"
#include "wgmma.cuh"

// A tile of M x N for M / 64 warpgroups, each of which multiplies 64 rows by all columns.
template <class T, int M_, int N_, int STAGES_>
struct WarpgroupTile {
    using Element = T;
    static constexpr int M = M_, N = N_, STAGES = STAGES_;
    static constexpr int THREADS = M / 64 * 128;
    static constexpr int LINE = 128;
    static constexpr int PIECE = 16 / sizeof(T);
    static constexpr int DEPTH = LINE / sizeof(T);
    static constexpr int A_BYTES = M * LINE, B_BYTES = N * LINE;

    __device__ static int line_offset(int line, int piece) {
        return line * LINE + ((piece ^ (line & 7)) << 4);
    }

    __device__ static void begin_products(float (&sums)[N / 8][4], const unsigned char* stage, bool add) {
        const unsigned char* a = stage + threadIdx.x / 128 * 64 * LINE;
#pragma unroll
        for (int byte = 0; byte < LINE; byte += 32)
            begin_product<T, N / 8>(sums, a + byte, stage + A_BYTES + byte, add || byte > 0);
    }
};

template <class T, int M, int N, int STAGES, int VECTOR, bool EXTRAS>
__global__ void __launch_bounds__(WarpgroupTile<T, M, N, STAGES>::THREADS)
correlate(T* __restrict__ y, float* __restrict__ partial, const T* __restrict__ image,
          const T* __restrict__ filters, const T* __restrict__ bias, const T* __restrict__ shift,
          const T* __restrict__ residual, int silu, Geometry p,
          int spread) {
    using S = WarpgroupTile<T, M, N, STAGES>;
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ long long places[M];
    const auto part = Part<M, N>::of_block(p, spread, S::DEPTH);
    if (part.pixels.rows <= 0) return;
    for (int row = threadIdx.x; row < min(M, part.pixels.rows); row += S::THREADS) {
        places[row] = part.pixels.place(row);
    }

    float sums[N / 8][4];  // filled by the first product
    Loader<S, VECTOR> loader(image, filters, p, part);
    accumulate<S>(sums, shared, loader, max(1, part.steps));
    if (bias && !partial) add_bias<S>(sums, bias, part, 0);
    const Output<T> output{y, partial, {shift, residual, silu}};
    write_rows<S, EXTRAS>(output, part, p, places, sums, threadIdx.x / 32 * 16, 0);
}
