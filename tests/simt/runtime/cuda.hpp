// CUDA C++ as far as our kernels use it, for g++. Included before every kernel.
#pragma once

#include "block.hpp"
#include "functions.hpp"

#define SIMT_EMULATOR 1

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __launch_bounds__(...)

#define threadIdx (simt::thread_index)
#define blockIdx (simt::block_index)
#define blockDim (simt::block_size)
#define gridDim (simt::grid_size)
#define warpSize 32

// --- barriers, votes and shuffles ------------------------------------------------------------------------

#define __syncthreads() ((void)simt::block_barrier(SIMT_HERE, false))
#define __syncthreads_count(p) (simt::block_barrier(SIMT_HERE, p).yes)
#define __syncthreads_or(p) (simt::block_barrier(SIMT_HERE, p).yes != 0)
#define __syncthreads_and(p) (simt::any_no(simt::block_barrier(SIMT_HERE, p)) == 0)

#define __syncwarp(...) simt::warp_barrier(SIMT_HERE __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...) simt::shuffle(SIMT_HERE, __VA_ARGS__)
#define __shfl_xor_sync(...) simt::shuffle_xor(SIMT_HERE, __VA_ARGS__)
#define __shfl_down_sync(...) simt::shuffle_down(SIMT_HERE, __VA_ARGS__)
#define __shfl_up_sync(...) simt::shuffle_up(SIMT_HERE, __VA_ARGS__)
#define __ballot_sync(mask, p) simt::ballot(SIMT_HERE, mask, p)
#define __any_sync(mask, p) (simt::ballot(SIMT_HERE, mask, p) != 0)
#define __all_sync(mask, p) (simt::ballot(SIMT_HERE, mask, !(p)) == 0)

namespace simt {

inline int any_no(Votes votes) { return votes.all - votes.yes; }

inline void warp_barrier(Place place, unsigned mask = ~0u) { exchange(mask, "", 1, place, "__syncwarp"); }

template <class T>
T shuffle(Place place, unsigned mask, T value, int source, int width = kLanes) {
    return from_lane(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), place, "__shfl_sync");
}

// The three that move by a distance leave a lane its own value where the source is outside its part of the warp.
template <class T>
T shuffle_within(Place place, unsigned mask, T value, int source, bool inside, const char* what) {
    T other = from_lane(mask, value, inside ? source : lane, place, what);
    return inside ? other : value;
}

template <class T>
T shuffle_xor(Place place, unsigned mask, T value, int distance, int width = kLanes) {
    int source = lane ^ distance;
    bool inside = source < kLanes && (source & ~(width - 1)) <= (lane & ~(width - 1));
    return shuffle_within(place, mask, value, source, inside, "__shfl_xor_sync");
}

template <class T>
T shuffle_down(Place place, unsigned mask, T value, int distance, int width = kLanes) {
    bool inside = (lane & (width - 1)) + distance < width;
    return shuffle_within(place, mask, value, lane + distance, inside, "__shfl_down_sync");
}

template <class T>
T shuffle_up(Place place, unsigned mask, T value, int distance, int width = kLanes) {
    bool inside = (lane & (width - 1)) >= distance;
    return shuffle_within(place, mask, value, lane - distance, inside, "__shfl_up_sync");
}

inline unsigned ballot(Place place, unsigned mask, bool vote) {
    unsigned char mine = vote ? 1 : 0;
    Slots slots = exchange(mask, &mine, 1, place, "a vote");
    unsigned votes = 0;
    for (int i = 0; i < kLanes; ++i)
        if (slots[i][0] == 1) votes |= 1u << i;
    return votes;
}

}  // namespace simt

// --- types -----------------------------------------------------------------------------------------------

using dim3 = simt::Index;
using uint3 = simt::Index;

#define SIMT_VECTOR(T, name)                                                                   \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                           \
    struct alignas(4 * sizeof(T)) name##4 { T x, y, z, w; };                                     \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                   \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SIMT_VECTOR(float, float)
SIMT_VECTOR(int, int)
SIMT_VECTOR(unsigned, uint)
#undef SIMT_VECTOR
