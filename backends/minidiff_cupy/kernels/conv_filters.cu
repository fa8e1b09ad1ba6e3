// The gradient of the filters by mma.sync, or exactly.
#include "conv_filters.cuh"

template <class T, int M, int N, int WARP_M, int WARP_N, int STAGES, bool EXACT, int VECTOR>
__global__ void __launch_bounds__(Tile<T, M, N, WARP_M, WARP_N, STAGES, EXACT>::THREADS)
filters_between(float* __restrict__ partial, const T* __restrict__ image, const T* __restrict__ result,
                Geometry p) {
    using S = Tile<T, M, N, WARP_M, WARP_N, STAGES, EXACT>;
    extern __shared__ __align__(128) unsigned char shared[];
    const auto part = Part<S>::of_block(p);
    Loader<S, VECTOR> loader(image, result, p, part);
    Sums<S> sums;
    accumulate<S, Columns>(sums, shared, loader, part.steps());

    const Place<S> place;
#pragma unroll
    for (int i = 0; i < S::DOWN; i++)
        write_rows(partial, part, p, sums.at[i], place.row + i * 16, place.column);
}
