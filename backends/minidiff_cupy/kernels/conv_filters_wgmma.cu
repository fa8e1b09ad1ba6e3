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

    __device__ static void begin_products(float (&sums)[N / 8][4], const unsigned char* stage, bool add) {
        const unsigned char* a = stage + threadIdx.x / 128 * COLUMNS_BYTES;
#pragma unroll
        for (int byte = 0; byte < COLUMNS_BYTES; byte += 16 * LINE)
            begin_product_of_columns<T, N / 8, COLUMNS_BYTES>(sums, a + byte, stage + A_BYTES + byte,
                                                              add || byte > 0);
    }
};

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
