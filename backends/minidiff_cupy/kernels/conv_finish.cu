// The sum of what several blocks have summed up, in the same order always.
#include "conv_extras.cuh"

// y = extras(sum over layers of partial + bias), element by element; images have `image_size` elements.
template <class T>
__global__ void finish(T* __restrict__ y, const float* __restrict__ partial, int layers, long long size,
                       const T* __restrict__ bias, const T* __restrict__ shift,
                       const T* __restrict__ residual, int silu, int channels, long long image_size) {
    const Extras<T> extras{shift, residual, silu};
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        float sum[1] = {0.0f};
        for (int layer = 0; layer < layers; layer++) sum[0] += partial[layer * size + i];
        const int channel = static_cast<int>(i % channels);
        if (bias) sum[0] += to_float(bias[channel]);
        extras.apply(sum, 1, i / image_size * channels + channel, i);
        y[i] = from_float<T>(sum[0]);
    }
}
