// What a step of a sampler makes of the network's output, for arrays that lie alike in memory.
#include "vectors.cuh"

struct Step {
    float x0_of_output, x0_of_sample;
    float limit;  // of the clean image
    float of_x0, of_sample, of_output, of_noise;
};

__device__ __forceinline__ float clean(const Step& step, float output, float sample) {
    float x0 = step.x0_of_output * output + step.x0_of_sample * sample;
    return x0 != x0 ? x0 : fminf(fmaxf(x0, -step.limit), step.limit);
}

__device__ __forceinline__ float following(const Step& step, float x0, float output, float sample,
                                           float noise) {
    return step.of_x0 * x0 + step.of_sample * sample + step.of_output * output + step.of_noise * noise;
}

// `noise` may be null, and then weighs nothing.
template <class T, int V>
__global__ void sampler_step(T* __restrict__ next, T* __restrict__ image, const T* __restrict__ output,
                             const T* __restrict__ sample, const T* __restrict__ noise, Step step,
                             long long vectors) {
    long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= vectors) return;
    Floats<V> y = read_floats<V>(output + i * V), x = read_floats<V>(sample + i * V), z = {};
    if (noise) z = read_floats<V>(noise + i * V);
    Floats<V> x0, x_next;
#pragma unroll
    for (int v = 0; v < V; ++v) {
        x0.value[v] = clean(step, y.value[v], x.value[v]);
        x_next.value[v] = following(step, x0.value[v], y.value[v], x.value[v], z.value[v]);
    }
    write_floats(image + i * V, x0);
    write_floats(next + i * V, x_next);
}
