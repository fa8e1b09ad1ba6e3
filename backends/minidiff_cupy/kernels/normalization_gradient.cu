// The gradients of normalization; see normalization.cuh. Those of weight and bias are summed in a fixed
// order: over a block's own rows and images here, over blocks by `sum_columns`.
#include "normalization.cuh"

// Of the gradient of the normalized input: its sum, and that of its product with the normalized input.
struct Pull {
    float plain, along;

    static __device__ Pull none() { return {0.f, 0.f}; }
    __device__ Pull with(const Pull& other) const { return {plain + other.plain, along + other.along}; }
    __device__ Pull exchanged(int mask) const { return {exchange(plain, mask), exchange(along, mask)}; }
};

// The gradient of z = weight * x_hat + bias, from that of the result.
template <bool SILU, int V>
__device__ __forceinline__ float before_activation(float dy, float x_hat, const Affine<V>& affine, int v) {
    return SILU ? dy * silu_slope(affine.scaled(x_hat, v)) : dy;
}

// Adds some rows to the gradients of V weights and biases, and to the sums over their group.
template <bool SILU, class T, int V, int K>
__device__ __forceinline__ void add_rows(Pull& pull, Floats<V>& dweight, Floats<V>& dbias,
                                         const Vector<T, V> (&dy)[K], const Vector<T, V> (&x)[K], int count,
                                         const Affine<V>& affine) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
        if (k >= count) break;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const float x_hat = affine.normalized(to_float(x[k].element[v]));
            const float dz = before_activation<SILU>(to_float(dy[k].element[v]), x_hat, affine, v);
            dbias.value[v] += dz;
            dweight.value[v] += dz * x_hat;
            pull.plain += dz * affine.weight.value[v];
            pull.along += dz * affine.weight.value[v] * x_hat;
        }
    }
}

// rstd (dx_hat - mean(dx_hat) - x_hat mean(dx_hat x_hat)); the mean of dx_hat counts if the input was
// centred.
template <bool CENTRE, bool SILU, class T, int V, int K>
__device__ __forceinline__ void write_pulled(T* __restrict__ image, const Pull& pull, float numbers,
                                             const Vector<T, V> (&dy)[K], const Vector<T, V> (&x)[K],
                                             int count, const Affine<V>& affine, const Place& place, int row,
                                             int channels) {
    const float offset = CENTRE ? pull.plain / numbers : 0.f, along = pull.along / numbers;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        if (k >= count) break;
        Floats<V> dx;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const float x_hat = affine.normalized(to_float(x[k].element[v]));
            const float dz = before_activation<SILU>(to_float(dy[k].element[v]), x_hat, affine, v);
            dx.value[v] = affine.rstd * (dz * affine.weight.value[v] - offset - x_hat * along);
        }
        write_floats(image + static_cast<size_t>(row + k * place.step) * channels + place.channel, dx);
    }
}

// Sums V numbers of each thread over the threads with the same channels; the first of them writes.
template <int V>
__device__ __forceinline__ void write_column_sums(float* __restrict__ to, const Floats<V>& own, int across,
                                                  int step) {
    extern __shared__ __align__(16) float sums[];  // (threads, V)
    const int thread = threadIdx.x, depth = thread / across;
    __syncthreads();  // what the last call left has been read
#pragma unroll
    for (int v = 0; v < V; ++v) sums[thread * V + v] = own.value[v];
    for (int left = step; left > 1;) {
        const int half = (left + 1) / 2;
        __syncthreads();
        if (depth + half < left)
#pragma unroll
            for (int v = 0; v < V; ++v) sums[thread * V + v] += sums[(thread + half * across) * V + v];
        left = half;
    }
    if (depth == 0)
#pragma unroll
        for (int v = 0; v < V; ++v) to[v] = sums[thread * V + v];
}

// partial (blocks in y, splits, 2, channels): what this block knows of the gradients of both.
template <int V>
__device__ __forceinline__ void write_affine_gradient(float* __restrict__ partial, const Floats<V>& dweight,
                                                      const Floats<V>& dbias, const Place& place,
                                                      int channels, int groups) {
    const int splits = gridDim.x / groups, across = channels / groups / V;
    float* own =
        partial + (static_cast<size_t>(blockIdx.y) * splits + place.split) * 2 * channels + place.channel;
    write_column_sums(own, dweight, across, place.step);
    write_column_sums(own + channels, dbias, across, place.step);
}

// Blocks (groups, any number), with V floats of shared memory a thread.
template <class T, int V, int K, bool CENTRE, bool SILU>
__global__ void __launch_bounds__(K == 1 ? 1024 : 512)
    pull_held(T* __restrict__ dx, float* __restrict__ partial, const T* __restrict__ dy,
              const T* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ rstd,
              const T* __restrict__ weight, const T* __restrict__ bias, int images, int rows, int channels,
              int groups) {
    const Place place(rows, channels, groups, rows, V);
    Affine<V> affine(weight, bias, place.channel);
    const float numbers = static_cast<float>(rows) * (channels / groups);
    Floats<V> dweight = {}, dbias = {};
    for (int image = blockIdx.y; image < images; image += gridDim.y) {
        const size_t start = static_cast<size_t>(image) * rows * channels;
        Vector<T, V> held_x[K], held_dy[K];
        const int count = read_rows(held_x, x + start, place, place.row, channels);
        read_rows(held_dy, dy + start, place, place.row, channels);
        const size_t group = place.group_of(image, groups);
        const float pivot = pivot_of<CENTRE>(x + start, channels, groups, place.group);
        affine.centre_on(pivot, mean[group], rstd[group]);
        Pull pull = Pull::none();
        add_rows<SILU>(pull, dweight, dbias, held_dy, held_x, count, affine);
        pull = sum_over_block(pull);
        write_pulled<CENTRE, SILU>(dx + start, pull, numbers, held_dy, held_x, count, affine, place,
                                   place.row, channels);
    }
    write_affine_gradient(partial, dweight, dbias, place, channels, groups);
}

// pulls (images, groups, splits). Blocks (groups * splits, any number), with V floats of shared memory to a
// thread.
template <class T, int V, bool CENTRE, bool SILU>
__global__ void __launch_bounds__(512)
    sums_of_splits(Pull* __restrict__ pulls, float* __restrict__ partial, const T* __restrict__ dy,
                   const T* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ rstd,
                   const T* __restrict__ weight, const T* __restrict__ bias, int images, int rows,
                   int channels, int groups, int split_rows) {
    const Place place(rows, channels, groups, split_rows, V);
    const int splits = gridDim.x / groups;
    Affine<V> affine(weight, bias, place.channel);
    Floats<V> dweight = {}, dbias = {};
    for (int image = blockIdx.y; image < images; image += gridDim.y) {
        const size_t start = static_cast<size_t>(image) * rows * channels;
        const size_t group = place.group_of(image, groups);
        const float pivot = pivot_of<CENTRE>(x + start, channels, groups, place.group);
        affine.centre_on(pivot, mean[group], rstd[group]);
        Pull pull = Pull::none();
        for (int row = place.row; row < place.end; row += IN_FLIGHT * place.step) {
            Vector<T, V> held_x[IN_FLIGHT], held_dy[IN_FLIGHT];
            const int count = read_rows(held_x, x + start, place, row, channels);
            read_rows(held_dy, dy + start, place, row, channels);
            add_rows<SILU>(pull, dweight, dbias, held_dy, held_x, count, affine);
        }
        pull = sum_over_block(pull);
        if (threadIdx.x == 0) pulls[group * splits + place.split] = pull;
    }
    write_affine_gradient(partial, dweight, dbias, place, channels, groups);
}

// The second half of `pull_held`, from `sums_of_splits`. Blocks (groups * splits, any number).
template <class T, int V, bool CENTRE, bool SILU>
__global__ void __launch_bounds__(512)
    pull_splits(T* __restrict__ dx, const Pull* __restrict__ pulls, const T* __restrict__ dy,
                const T* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ rstd,
                const T* __restrict__ weight, const T* __restrict__ bias, int images, int rows, int channels,
                int groups, int split_rows) {
    const Place place(rows, channels, groups, split_rows, V);
    const int splits = gridDim.x / groups;
    Affine<V> affine(weight, bias, place.channel);
    const float numbers = static_cast<float>(rows) * (channels / groups);
    for (int image = blockIdx.y; image < images; image += gridDim.y) {
        const size_t start = static_cast<size_t>(image) * rows * channels;
        const size_t group = place.group_of(image, groups);
        const Pull pull = sum_of_splits(pulls + group * splits, splits);
        const float pivot = pivot_of<CENTRE>(x + start, channels, groups, place.group);
        affine.centre_on(pivot, mean[group], rstd[group]);
        for (int row = place.row; row < place.end; row += IN_FLIGHT * place.step) {
            Vector<T, V> held_x[IN_FLIGHT], held_dy[IN_FLIGHT];
            const int count = read_rows(held_x, x + start, place, row, channels);
            read_rows(held_dy, dy + start, place, row, channels);
            write_pulled<CENTRE, SILU>(dx + start, pull, numbers, held_dy, held_x, count, affine, place, row,
                                       channels);
        }
    }
}
