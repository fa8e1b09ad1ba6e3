// GroupNorm on images (image, row, channel), a row being a pixel; LayerNorm and RMSNorm are its case of one
// row and one group. Statistics are kept in float32.
//
// A block has one group of an image. Its threads lie side by side over the channels of the group, V to a
// thread, and one behind another over the rows. "Held" kernels read a whole group once and keep it in
// registers, K rows to a thread. For larger groups the rows are split: a first kernel leaves partial sums of
// each split, a second one adds them up.
#pragma once
#include "activations.cuh"
#include "reductions.cuh"
#include "vectors.cuh"

// The rows and channels that one thread works on.
struct Place {
    int group, split;    // of the block
    int column;          // the first of the thread's channels, counted in the group
    int channel;         // the same, counted in the image
    int row, end, step;  // rows row, row + step, ... below end

    __device__ Place(int rows, int channels, int groups, int split_rows, int vector) {
        const int width = channels / groups, across = width / vector;
        group = blockIdx.x % groups;
        split = blockIdx.x / groups;
        column = threadIdx.x % across * vector;
        channel = group * width + column;
        step = blockDim.x / across;
        const int first = split * split_rows, own = threadIdx.x / across;
        end = min(rows, first + split_rows);
        row = own < step ? first + own : end;  // threads that make no full row stay idle
    }

    __device__ size_t group_of(int image, int groups) const {
        return static_cast<size_t>(image) * groups + group;
    }
};

// How V channels of one group are normalized, scaled and shifted.
template <int V>
struct Affine {
    float pivot, mean, rstd;
    Floats<V> weight, bias;

    // Without a weight it is 1, without a bias 0.
    template <class T>
    __device__ Affine(const T* weights, const T* biases, int channel) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            weight.value[v] = weights ? to_float(weights[channel + v]) : 1.f;
            bias.value[v] = biases ? to_float(biases[channel + v]) : 0.f;
        }
    }

    __device__ void centre_on(float new_pivot, float new_mean, float new_rstd) {
        pivot = new_pivot;
        mean = new_mean;
        rstd = new_rstd;
    }

    __device__ float normalized(float x) const { return (x - pivot - mean) * rstd; }
    __device__ float scaled(float x_hat, int v) const { return x_hat * weight.value[v] + bias.value[v]; }
};

template <bool CENTRE, class T>
__device__ __forceinline__ float pivot_of(const T* image, int channels, int groups, int group) {
    return CENTRE ? to_float(image[channels / groups * group]) : 0.f;
}

// Rows row, row + step, ... below end, at most K of them; how many there were.
template <class T, int V, int K>
__device__ __forceinline__ int read_rows(Vector<T, V> (&held)[K], const T* __restrict__ image,
                                         const Place& place, int row, int channels) {
    int count = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int r = row + k * place.step;
        if (r < place.end) {
            held[k] = read<V>(image + static_cast<size_t>(r) * channels + place.channel);
            count = k + 1;
        }
    }
    return count;
}

constexpr int IN_FLIGHT = 4;  // rows that a thread of a split reads before it computes

// The sum of what the splits of one group left, known to every thread.
template <class Sum>
__device__ __forceinline__ Sum sum_of_splits(const Sum* __restrict__ partial, int splits) {
    Sum sum = Sum::none();
    for (int split = threadIdx.x % WARP; split < splits; split += WARP) sum = sum.with(partial[split]);
    return sum_over_warp(sum);
}
