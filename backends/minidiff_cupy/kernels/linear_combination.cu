// The sum of up to eight arrays, each times a number, for arrays that lie alike in memory.
#include "vectors.cuh"

constexpr int MOST = 8;

template <class T>
struct Terms {
    const T* array[MOST];
    float factor[MOST];
    int count;
};

// All arrays are read before the first is needed, so that the reads wait for memory together.
template <class T, int V>
__global__ void __launch_bounds__(256)
    linear_combination(T* __restrict__ y, const __grid_constant__ Terms<T> terms, long long vectors) {
    long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= vectors) return;
    Vector<T, V> x[MOST];
#pragma unroll
    for (int k = 0; k < MOST; ++k) {
        if (k < terms.count) x[k] = read<V>(terms.array[k] + i * V);
    }
    Floats<V> sum = {};
#pragma unroll
    for (int k = 0; k < MOST; ++k) {
        if (k >= terms.count) break;
#pragma unroll
        for (int v = 0; v < V; ++v) sum.value[v] += terms.factor[k] * to_float(x[k].element[v]);
    }
    write_floats(y + i * V, sum);
}
