// GroupNorm on images (image, row, channel), a row being a pixel; LayerNorm and RMSNorm are its case of one
// row and one group. Statistics are kept in float32.
//
// A block has one group of an image. Its threads lie side by side over the channels of the group, V to a
// thread, and one behind another over the rows. "Held" kernels read a whole group once and keep it in
// registers, K rows to a thread. For larger groups the rows are split: a first kernel leaves partial sums of
// each split, a second one adds them up.
//
// What is summed are distances from a number of the group itself, its pivot, so that a mean of 1000 costs no
// digits; variances are sums of squares about a mean, merged by the rule of Chan, Golub and LeVeque (1979).
// Gradients of weight and bias are summed in a fixed order: over a block's own rows and images here, over
// blocks by `sum_columns`.
#include "activations.cuh"
#include "reductions.cuh"
#include "vectors.cuh"

// Number, mean, and sum of squares about the mean.
struct Moments {
    float count, mean, squares;

    static __device__ Moments none() { return {0.f, 0.f, 0.f}; }

    __device__ Moments with(const Moments& other) const {
        const float total = count + other.count;
        if (total == 0.f) return none();
        const float share = other.count / total, apart = other.mean - mean;
        return {total, mean + apart * share, squares + other.squares + apart * apart * count * share};
    }

    __device__ Moments exchanged(int mask) const {
        return {exchange(count, mask), exchange(mean, mask), exchange(squares, mask)};
    }
};

// Of the gradient of the normalized input: its sum, and that of its product with the normalized input.
struct Pull {
    float plain, along;

    static __device__ Pull none() { return {0.f, 0.f}; }
    __device__ Pull with(const Pull& other) const { return {plain + other.plain, along + other.along}; }
    __device__ Pull exchanged(int mask) const { return {exchange(plain, mask), exchange(along, mask)}; }
};

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

// Of the first `count` vectors, as distances from the pivot; about 0 if nothing is centred.
template <bool CENTRE, class T, int V, int K>
__device__ __forceinline__ Moments moments_of(const Vector<T, V> (&held)[K], int count, float pivot) {
    const float numbers = static_cast<float>(count * V);
    float mean = 0.f, squares = 0.f;
    if (CENTRE && count) {
#pragma unroll
        for (int k = 0; k < K; ++k)
            if (k < count)
#pragma unroll
                for (int v = 0; v < V; ++v) mean += to_float(held[k].element[v]) - pivot;
        mean /= numbers;
    }
#pragma unroll
    for (int k = 0; k < K; ++k)
        if (k < count)
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const float distance = to_float(held[k].element[v]) - pivot - mean;
                squares += distance * distance;
            }
    return {numbers, mean, squares};
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

template <bool SILU, class T, int V, int K>
__device__ __forceinline__ void write_normalized(T* __restrict__ image, const Vector<T, V> (&held)[K],
                                                 int count, const Affine<V>& affine, const Place& place,
                                                 int row, int channels) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
        if (k >= count) break;
        Floats<V> y = widen(held[k]);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const float z = affine.scaled(affine.normalized(y.value[v]), v);
            y.value[v] = SILU ? silu(z) : z;
        }
        write_floats(image + static_cast<size_t>(row + k * place.step) * channels + place.channel, y);
    }
}

// mean and rstd (images, groups); the mean is a distance from the pivot. Blocks (groups, any number).
template <class T, int V, int K, bool CENTRE, bool SILU>
__global__ void __launch_bounds__(K == 1 ? 1024 : 512)
    normalize_held(T* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd,
                   const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                   int images, int rows, int channels, int groups, float eps) {
    const Place place(rows, channels, groups, rows, V);
    Affine<V> affine(weight, bias, place.channel);
    for (int image = blockIdx.y; image < images; image += gridDim.y) {
        const size_t start = static_cast<size_t>(image) * rows * channels;
        Vector<T, V> held[K];
        const int count = read_rows(held, x + start, place, place.row, channels);
        const float pivot = pivot_of<CENTRE>(x + start, channels, groups, place.group);
        const Moments all = sum_over_block(moments_of<CENTRE>(held, count, pivot));
        affine.centre_on(pivot, all.mean, rsqrtf(all.squares / all.count + eps));
        if (threadIdx.x == 0) {
            mean[place.group_of(image, groups)] = affine.mean;
            rstd[place.group_of(image, groups)] = affine.rstd;
        }
        write_normalized<SILU>(y + start, held, count, affine, place, place.row, channels);
    }
}

constexpr int IN_FLIGHT = 4;  // rows that a thread of a split reads before it computes

// partial (images, groups, splits), of split_rows rows each. Blocks (groups * splits, any number).
template <class T, int V, bool CENTRE>
__global__ void __launch_bounds__(512)
    moments_of_splits(Moments* __restrict__ partial, const T* __restrict__ x, int images, int rows,
                      int channels, int groups, int split_rows) {
    const Place place(rows, channels, groups, split_rows, V);
    const int splits = gridDim.x / groups;
    for (int image = blockIdx.y; image < images; image += gridDim.y) {
        const T* source = x + static_cast<size_t>(image) * rows * channels;
        const float pivot = pivot_of<CENTRE>(source, channels, groups, place.group);
        Moments own = Moments::none();
        for (int row = place.row; row < place.end; row += IN_FLIGHT * place.step) {
            Vector<T, V> held[IN_FLIGHT];
            const int count = read_rows(held, source, place, row, channels);
            own = own.with(moments_of<CENTRE>(held, count, pivot));
        }
        const Moments all = sum_over_block(own);
        if (threadIdx.x == 0) partial[place.group_of(image, groups) * splits + place.split] = all;
    }
}

// The sum of what the splits of one group left, known to every thread.
template <class Sum>
__device__ __forceinline__ Sum sum_of_splits(const Sum* __restrict__ partial, int splits) {
    Sum sum = Sum::none();
    for (int split = threadIdx.x % WARP; split < splits; split += WARP) sum = sum.with(partial[split]);
    return sum_over_warp(sum);
}

// The second half of `normalize_held`, from `moments_of_splits`. Blocks (groups * splits, any number).
template <class T, int V, bool CENTRE, bool SILU>
__global__ void __launch_bounds__(512)
    normalize_splits(T* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd,
                     const Moments* __restrict__ partial, const T* __restrict__ x,
                     const T* __restrict__ weight, const T* __restrict__ bias, int images, int rows,
                     int channels, int groups, int split_rows, float eps) {
    const Place place(rows, channels, groups, split_rows, V);
    const int splits = gridDim.x / groups;
    Affine<V> affine(weight, bias, place.channel);
    for (int image = blockIdx.y; image < images; image += gridDim.y) {
        const size_t start = static_cast<size_t>(image) * rows * channels;
        const size_t group = place.group_of(image, groups);
        const Moments all = sum_of_splits(partial + group * splits, splits);
        const float pivot = pivot_of<CENTRE>(x + start, channels, groups, place.group);
        affine.centre_on(pivot, all.mean, rsqrtf(all.squares / all.count + eps));
        if (place.split == 0 && threadIdx.x == 0) {
            mean[group] = affine.mean;
            rstd[group] = affine.rstd;
        }
        for (int row = place.row; row < place.end; row += IN_FLIGHT * place.step) {
            Vector<T, V> held[IN_FLIGHT];
            const int count = read_rows(held, x + start, place, row, channels);
            write_normalized<SILU>(y + start, held, count, affine, place, row, channels);
        }
    }
}

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
