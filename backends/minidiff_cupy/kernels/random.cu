// Random words and normal numbers: one thread computes the four numbers of a block of Philox.
#include "numbers.cuh"
#include "philox.cuh"

__device__ __forceinline__ long long thread_number() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__global__ void random_words(long long* __restrict__ out, unsigned long long seed, unsigned long long stream,
                             unsigned long long counter, long long blocks) {
    long long block = thread_number();
    if (block >= blocks) return;
    Words words = philox({seed, stream}, counter + block);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[4 * block + i] = words.word[i];
}

// By way of float32, so that half and bfloat16 are rounded as in minidiff.philox.round_to.
template <class T> __device__ __forceinline__ T rounded_to(double z) {
    return from_float<T>(static_cast<float>(z));
}

template <> __device__ __forceinline__ double rounded_to<double>(double z) { return z; }

template <class T> struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) Four {
    T number[4];
};

// `out` is the beginning of an allocation, and so aligned.
template <class T>
__global__ void random_normal(T* __restrict__ out, unsigned long long seed, unsigned long long stream,
                              unsigned long long counter, long long size) {
    long long block = thread_number();
    long long left = size - 4 * block;
    if (left <= 0) return;
    Words words = philox({seed, stream}, counter + block);
    Four<T> z;
#pragma unroll
    for (int i = 0; i < 4; ++i) z.number[i] = rounded_to<T>(normal_from_word(words.word[i]));
    if (left >= 4) {
        reinterpret_cast<Four<T>*>(out)[block] = z;
    } else {
        for (int i = 0; i < left; ++i) out[4 * block + i] = z.number[i];
    }
}
