// softmax and log_softmax along rows, and their gradients; a warp has a row.
#include "reductions.cuh"
#include "vectors.cuh"

// Finite, so that numbers masked out by -infinity leave a sum of 0.
constexpr float LOWEST = -3.402823466e38f;

// Some of a row: its greatest number, and the sum of exp(number - greatest). Merged as in Milakov and
// Gimelshein (2018).
struct Exponentials {
    float greatest, sum;

    static __device__ Exponentials none() { return {LOWEST, 0.f}; }

    __device__ Exponentials with(const Exponentials& other) const {
        if (other.sum == 0.f) return *this;
        if (sum == 0.f) return other;
        const float top = fmaxf(greatest, other.greatest);
        return {top, sum * expf(greatest - top) + other.sum * expf(other.greatest - top)};
    }

    __device__ Exponentials exchanged(int mask) const {
        return {exchange(greatest, mask), exchange(sum, mask)};
    }
};

struct Total {
    float sum;

    static __device__ Total none() { return {0.f}; }
    __device__ Total with(const Total& other) const { return {sum + other.sum}; }
    __device__ Total exchanged(int mask) const { return {exchange(sum, mask)}; }
};

// The rows of a warp are row, row + all warps, ...; blockDim is (32, warps).
__device__ __forceinline__ long long first_row() {
    return static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;
}
__device__ __forceinline__ long long all_warps() { return static_cast<long long>(gridDim.x) * blockDim.y; }

// shifts (rows), for log_softmax only: what is subtracted from each row.
template <class T, int V, bool LOG>
__global__ void __launch_bounds__(256) softmax(T* __restrict__ y, float* __restrict__ shifts,
                                               const T* __restrict__ x, long long rows, int length) {
    for (long long row = first_row(); row < rows; row += all_warps()) {
        const T* from = x + row * length;
        T* to = y + row * length;
        Exponentials own = Exponentials::none();
        for (long long i = threadIdx.x * V; i < length; i += WARP * V) {
            const Floats<V> number = read_floats<V>(from + i);
            Exponentials some = Exponentials::none();
#pragma unroll
            for (int v = 0; v < V; ++v) some.greatest = fmaxf(some.greatest, number.value[v]);
#pragma unroll
            for (int v = 0; v < V; ++v) some.sum += expf(number.value[v] - some.greatest);
            own = own.with(some);
        }
        const Exponentials all = sum_over_warp(own);
        const float scale = 1.f / all.sum, shift = all.greatest + logf(all.sum);
        if (LOG && threadIdx.x == 0) shifts[row] = shift;
#pragma unroll 1  // unrolled, it stores short numbers one by one
        for (long long i = threadIdx.x * V; i < length; i += WARP * V) {
            Floats<V> number = read_floats<V>(from + i);
#pragma unroll
            for (int v = 0; v < V; ++v)
                number.value[v] =
                    LOG ? number.value[v] - shift : expf(number.value[v] - all.greatest) * scale;
            write_floats(to + i, number);
        }
    }
}

// From the result p of softmax: p (dy - sum(p dy)). From what went into log_softmax: dy - exp(x - shift)
// sum(dy), because the result may have been rounded to half precision.
template <class T, int V, bool LOG>
__global__ void __launch_bounds__(256)
    pull_softmax(T* __restrict__ dx, const float* __restrict__ shifts, const T* __restrict__ dy,
                 const T* __restrict__ known, long long rows, int length) {
    for (long long row = first_row(); row < rows; row += all_warps()) {
        const size_t start = row * length;
        const float shift = LOG ? shifts[row] : 0.f;
        Total own = Total::none();
        for (long long i = threadIdx.x * V; i < length; i += WARP * V) {
            const Floats<V> k = read_floats<V>(known + start + i), d = read_floats<V>(dy + start + i);
#pragma unroll
            for (int v = 0; v < V; ++v) own.sum += LOG ? d.value[v] : k.value[v] * d.value[v];
        }
        const float sum = sum_over_warp(own).sum;
#pragma unroll 1  // unrolled, it stores short numbers one by one
        for (long long i = threadIdx.x * V; i < length; i += WARP * V) {
            const Floats<V> k = read_floats<V>(known + start + i);
            Floats<V> d = read_floats<V>(dy + start + i);
#pragma unroll
            for (int v = 0; v < V; ++v)
                d.value[v] =
                    LOG ? d.value[v] - expf(k.value[v] - shift) * sum : k.value[v] * (d.value[v] - sum);
            write_floats(dx + start + i, d);
        }
    }
}
