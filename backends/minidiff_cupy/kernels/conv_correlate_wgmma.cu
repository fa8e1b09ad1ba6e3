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
};

// The sums of a warpgroup over `steps` stages, at least one. While one product is under way another stage is
// read by the one before it, at the latest, so that copies run STAGES - 2 ahead.
template <class S, class Loader>
__device__ void accumulate(float (&sums)[S::N / 8][4], unsigned char* shared, Loader& loader, int steps) {
    constexpr int BYTES = S::A_BYTES + S::B_BYTES, AHEAD = S::STAGES - 2;
    const int first_row = threadIdx.x / 128 * 64;
    auto load = [&](int step) {
        unsigned char* stage = shared + step % S::STAGES * BYTES;
        if (step < steps) loader.load(stage, stage + S::A_BYTES);
        commit_copies();
    };
    for (int step = 0; step < AHEAD; step++) load(step);
    for (int step = 0; step < steps; step++) {
        wait_for_copies<AHEAD - 1>();
        show_to_products();
        __syncthreads();  // the stage has come for all, and all products but the last have been waited for
        const unsigned char* stage = shared + step % S::STAGES * BYTES;
        fence_products();
#pragma unroll
        for (int byte = 0; byte < S::LINE; byte += 32)
            begin_product<typename S::Element, S::N / 8>(sums, stage + first_row * S::LINE + byte,
                                                         stage + S::A_BYTES + byte, step > 0 || byte > 0);
        commit_products();
        load(step + AHEAD);
        wait_for_products<1>();
    }
    wait_for_products<0>();
}

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

    float sums[N / 8][4];  // filled by the first product: setting them to zero would serialize all of them
    Loader<S, VECTOR> loader(image, filters, p, part);
    accumulate<S>(sums, shared, loader, max(1, part.steps));
    if (bias && !partial) add_bias<S>(sums, bias, part, 0);
    const Output<T> output{y, partial, {shift, residual, silu}};
    write_rows<S, EXTRAS>(output, part, p, places, sums, threadIdx.x / 32 * 16, 0);
}
