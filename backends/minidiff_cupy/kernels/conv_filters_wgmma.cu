// The gradient of the filters by wgmma, for Hopper (sm_90a) and numbers of 16 bits: both images lie with their
// pixels, the inner axis, as lines, and wgmma transposes no others.
#include "conv_filters.cuh"
#include "wgmma.cuh"

// A tile of M x N for M / 64 warpgroups, each of which multiplies 64 filters by all columns. A stage holds 64
// pixels: of 64 columns, then of the next 64.
template <class T, int M_, int N_, int STAGES_>
struct WarpgroupTile {
    using Element = T;
    static_assert(sizeof(T) == 2, "wgmma takes no others in columns");
    static constexpr int M = M_, N = N_, STAGES = STAGES_;
    static constexpr int THREADS = M / 64 * 128;
    static constexpr int LINE = 128;
    static constexpr int PIECE = 16 / sizeof(T);
    static constexpr int DEPTH = LINE / sizeof(T);
    static constexpr int COLUMNS_BYTES = DEPTH * LINE;  // of 64 columns
    static constexpr int A_BYTES = M * LINE, B_BYTES = N * LINE;

    __device__ static int column_offset(int, int row, int piece) {
        return piece / 8 * COLUMNS_BYTES + row * LINE + ((piece % 8 ^ row % 8) << 4);
    }
};

// The sums of a warpgroup over `steps` stages, at least one. While one product is under way another stage is
// read by the one before it, at the latest, so that copies run STAGES - 2 ahead.
template <class S, class Loader>
__device__ void accumulate(float (&sums)[S::N / 8][4], unsigned char* shared, Loader& loader, int steps) {
    constexpr int BYTES = S::A_BYTES + S::B_BYTES, AHEAD = S::STAGES - 2;
    const int first_byte = threadIdx.x / 128 * S::COLUMNS_BYTES;
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
        for (int byte = 0; byte < S::COLUMNS_BYTES; byte += 16 * S::LINE)
            begin_product_of_columns<typename S::Element, S::N / 8, S::COLUMNS_BYTES>(
                sums, stage + first_byte + byte, stage + S::A_BYTES + byte, step > 0 || byte > 0);
        commit_products();
        load(step + AHEAD);
        wait_for_products<1>();
    }
    wait_for_products<0>();
}

template <class T, int M, int N, int STAGES>
__global__ void __launch_bounds__(WarpgroupTile<T, M, N, STAGES>::THREADS)
filters_between(float* __restrict__ partial, const T* __restrict__ image, const T* __restrict__ result,
                Geometry p) {
    using S = WarpgroupTile<T, M, N, STAGES>;
    extern __shared__ __align__(1024) unsigned char shared[];
    const auto part = Part<S>::of_block(p);
    Loader<S, S::PIECE> loader(image, result, p, part);
    float sums[N / 8][4];  // filled by the first product
    accumulate<S>(sums, shared, loader, part.steps());
    write_rows(partial, part, p, sums, threadIdx.x / 32 * 16, 0);
}
