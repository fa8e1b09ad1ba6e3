// What is done to a sum, once it has its bias, before it becomes a result: silu(sum + shift + residual).
#pragma once
#include "numbers.cuh"

template <class T>
struct Extras {
    const T* shift;     // (images, channels), such as a time embedding; null for none
    const T* residual;  // like the result; null for none
    int silu;

    // For the first `count` of some neighbours, of which `shift_index` and `index` count the first.
    template <int N>
    __device__ void apply(float (&sums)[N], int count, long long shift_index, long long index) const {
#pragma unroll
        for (int e = 0; e < N; e++) {
            if (e >= count) break;
            if (shift) sums[e] += to_float(shift[shift_index + e]);
            if (residual) sums[e] += to_float(residual[index + e]);
            if (silu) sums[e] /= 1.0f + expf(-sums[e]);
        }
    }
};
