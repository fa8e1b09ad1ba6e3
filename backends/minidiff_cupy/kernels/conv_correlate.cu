// Convolution and its transpose by mma.sync, or exactly.
#include "conv_correlate.cuh"

template <class T, int M, int N, int WARP_M, int WARP_N, int STAGES, bool EXACT, int VECTOR, bool EXTRAS>
__global__ void __launch_bounds__(Tile<T, M, N, WARP_M, WARP_N, STAGES, EXACT>::THREADS)
correlate(T* __restrict__ y, float* __restrict__ partial, const T* __restrict__ image,
          const T* __restrict__ filters, const T* __restrict__ bias, const T* __restrict__ shift,
          const T* __restrict__ residual, int silu, Geometry p,
          int spread) {
    using S = Tile<T, M, N, WARP_M, WARP_N, STAGES, EXACT>;
    extern __shared__ __align__(128) unsigned char shared[];
    __shared__ long long places[M];
    const auto part = Part<M, N>::of_block(p, spread, S::DEPTH);
    if (part.pixels.rows <= 0) return;
    for (int row = threadIdx.x; row < min(M, part.pixels.rows); row += S::THREADS) {
        places[row] = part.pixels.place(row);
    }

    const Place<S> place;
    Sums<S> sums;
    Loader<S, VECTOR> loader(image, filters, p, part);
    accumulate<S, Lines>(sums, shared, loader, part.steps);
    __syncthreads();  // `places` are there also if there was no step
    const Output<T> output{y, partial, {shift, residual, silu}};
#pragma unroll
    for (int i = 0; i < S::DOWN; i++) {
        if (bias && !partial) add_bias<S>(sums.at[i], bias, part, place.column);
        write_rows<S, EXTRAS>(output, part, p, places, sums.at[i], place.row + i * 16, place.column);
    }
}
