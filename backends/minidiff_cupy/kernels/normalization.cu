// Statistics and normalization; see normalization.cuh.
//
// What is summed are distances from a number of the group itself, its pivot, so that a mean of 1000 costs no
// digits; variances are sums of squares about a mean, merged by the rule of Chan, Golub and LeVeque (1979).
#include "normalization.cuh"

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
