// Sums over a warp and over a block whose order depends on nothing but the size of the block.
//
// What is summed is a struct with three members: `none()`, the sum of nothing; `with(other)`, the sum of two;
// and `exchanged(mask)`, what the thread whose number in the warp differs by the bits of `mask` holds.
#pragma once

constexpr int WARP = 32;

__device__ __forceinline__ float exchange(float own, int mask) {
    return __shfl_xor_sync(0xffffffffu, own, mask);
}

template <class Sum>
__device__ __forceinline__ Sum sum_over_warp(Sum sum) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) sum = sum.with(sum.exchanged(mask));
    return sum;
}

// Every thread of the block gets the sum; the number of threads is a multiple of 32.
template <class Sum>
__device__ __forceinline__ Sum sum_over_block(Sum sum) {
    __shared__ Sum of_warp[WARP];
    const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    sum = sum_over_warp(sum);
    if (warps == 1) return sum;
    if (lane == 0) of_warp[threadIdx.x / WARP] = sum;
    __syncthreads();
    sum = lane < warps ? of_warp[lane] : Sum::none();
    __syncthreads();  // before another sum is written there
    return sum_over_warp(sum);
}
