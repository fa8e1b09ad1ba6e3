// Enlarging and pooling of images (image, row, column, channel), V channels to a thread.
//
// A pixel of the result is a sum of pixels of the source: along each axis of neighbours first, ..., first +
// count - 1, each with a weight. The gradient of such a map is a map of the same kind, so that nothing is
// added up by atomics.
#include "vectors.cuh"

struct Range {
    int first, count;
};

// A window of `kernel` pixels every `stride` pixels, weighed alike; enlarging by repetition goes from its
// results back.
struct Windows {
    static __device__ __forceinline__ Range range(int to, int, int kernel, int stride) {
        return {to * stride, kernel};
    }
    static __device__ __forceinline__ float weight(int, int, int, int) { return 1.f; }
};

// The windows that a pixel lies in, of `size` windows.
struct Covering {
    static __device__ __forceinline__ Range range(int to, int size, int kernel, int stride) {
        const int first = to < kernel ? 0 : (to - kernel) / stride + 1;
        return {first, max(0, min(size - 1, to / stride) - first + 1)};
    }
    static __device__ __forceinline__ float weight(int, int, int, int) { return 1.f; }
};

// Where the centre of pixel `to` of an image enlarged `scale` times lies among `size` pixels.
__device__ __forceinline__ float centre(int to, int size, int scale) {
    return min(max((to + 0.5f) / scale - 0.5f, 0.f), size - 1.f);
}

// Enlarging by straight lines between the centres of pixels.
struct Lines {
    static __device__ __forceinline__ Range range(int to, int size, int, int scale) {
        const int first = static_cast<int>(centre(to, size, scale));
        return {first, min(2, size - first)};
    }
    static __device__ __forceinline__ float weight(int to, int from, int size, int scale) {
        return max(0.f, 1.f - fabsf(centre(to, size, scale) - from));
    }
};

// From an enlarged image of `size` pixels back.
struct LinesBack {
    static __device__ __forceinline__ Range range(int to, int size, int, int scale) {
        const int first = max(0, (to - 1) * scale);
        return {first, min(size, (to + 2) * scale) - first};
    }
    static __device__ __forceinline__ float weight(int to, int from, int size, int scale) {
        return max(0.f, 1.f - fabsf(centre(from, size / scale, scale) - to));
    }
};

struct Sizes {
    int images, to_rows, to_columns, from_rows, from_columns, channels;
};

struct Window {
    int rows, columns, row_stride, column_stride;
};

// The pixel and the first of the V channels that a thread has at its turn.
struct Pixel {
    int channel, column, row, image;

    __device__ Pixel(int number, int rows, int columns, int channels, int vector) {
        const int across = channels / vector, pixel = number / across, line = pixel / columns;
        channel = number % across * vector;
        column = pixel % columns;
        row = line % rows;
        image = line / rows;
    }
};

__device__ __forceinline__ size_t offset(int image, int row, int column, int channel, int rows, int columns,
                                         int channels) {
    return ((static_cast<size_t>(image) * rows + row) * columns + column) * channels + channel;
}

__device__ __forceinline__ int first_turn() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int all_threads() { return gridDim.x * blockDim.x; }

template <class Map, class T, int V>
__global__ void __launch_bounds__(256)
    resample(T* __restrict__ y, const T* __restrict__ x, Sizes size, Window window, float scale) {
    const int vectors = size.images * size.to_rows * size.to_columns * (size.channels / V);
    for (int i = first_turn(); i < vectors; i += all_threads()) {
        const Pixel to(i, size.to_rows, size.to_columns, size.channels, V);
        const Range rows = Map::range(to.row, size.from_rows, window.rows, window.row_stride);
        const Range columns = Map::range(to.column, size.from_columns, window.columns, window.column_stride);
        Floats<V> sum = {};
        for (int r = rows.first; r < rows.first + rows.count; ++r) {
            const float of_row = Map::weight(to.row, r, size.from_rows, window.row_stride) * scale;
            for (int c = columns.first; c < columns.first + columns.count; ++c) {
                const float share =
                    of_row * Map::weight(to.column, c, size.from_columns, window.column_stride);
                const Floats<V> from = read_floats<V>(
                    x + offset(to.image, r, c, to.channel, size.from_rows, size.from_columns, size.channels));
#pragma unroll
                for (int v = 0; v < V; ++v) sum.value[v] += share * from.value[v];
            }
        }
        write_floats(y + static_cast<size_t>(i) * V, sum);
    }
}

// The greatest of each window; what is not a number wins.
template <class T, int V>
__global__ void __launch_bounds__(256)
    pool_max(T* __restrict__ y, const T* __restrict__ x, Sizes size, Window window) {
    const int vectors = size.images * size.to_rows * size.to_columns * (size.channels / V);
    for (int i = first_turn(); i < vectors; i += all_threads()) {
        const Pixel to(i, size.to_rows, size.to_columns, size.channels, V);
        const int row = to.row * window.row_stride, column = to.column * window.column_stride;
        Floats<V> greatest = {};
        for (int r = 0; r < window.rows; ++r)
            for (int c = 0; c < window.columns; ++c) {
                const Floats<V> from =
                    read_floats<V>(x + offset(to.image, row + r, column + c, to.channel, size.from_rows,
                                              size.from_columns, size.channels));
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    const float f = from.value[v];
                    if (r + c == 0 || f > greatest.value[v] || f != f) greatest.value[v] = f;
                }
            }
        write_floats(y + static_cast<size_t>(i) * V, greatest);
    }
}

// Whether an earlier pixel of the window that begins at (top, left) is as great as the pixel (row, column).
template <class T>
__device__ bool has_earlier(const T* __restrict__ channel, float greatest, int row, int column, int top,
                            int left, int window_columns, const Sizes& size) {
    for (int r = top; r <= row; ++r)
        for (int c = left; c < (r == row ? column : left + window_columns); ++c)
            if (to_float(channel[(static_cast<size_t>(r) * size.from_columns + c) * size.channels]) ==
                greatest)
                return true;
    return false;
}

// From dy, of the size `to`, to dx, of the size `from`: the first of the greatest pixels of a window gets its
// gradient.
template <class T, int V>
__global__ void __launch_bounds__(256)
    pull_max(T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ y, const T* __restrict__ x,
             Sizes size, Window window) {
    const int vectors = size.images * size.from_rows * size.from_columns * (size.channels / V);
    for (int i = first_turn(); i < vectors; i += all_threads()) {
        const Pixel own(i, size.from_rows, size.from_columns, size.channels, V);
        const Range rows = Covering::range(own.row, size.to_rows, window.rows, window.row_stride);
        const Range columns =
            Covering::range(own.column, size.to_columns, window.columns, window.column_stride);
        const Floats<V> value = read_floats<V>(x + static_cast<size_t>(i) * V);
        const T* image =
            x + offset(own.image, 0, 0, own.channel, size.from_rows, size.from_columns, size.channels);
        Floats<V> sum = {};
        for (int r = rows.first; r < rows.first + rows.count; ++r)
            for (int c = columns.first; c < columns.first + columns.count; ++c) {
                const size_t there =
                    offset(own.image, r, c, own.channel, size.to_rows, size.to_columns, size.channels);
                const Floats<V> greatest = read_floats<V>(y + there), arriving = read_floats<V>(dy + there);
                const int top = r * window.row_stride, left = c * window.column_stride;
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (value.value[v] == greatest.value[v] &&
                        !has_earlier(image + v, greatest.value[v], own.row, own.column, top, left,
                                     window.columns, size))
                        sum.value[v] += arriving.value[v];
            }
        write_floats(dx + static_cast<size_t>(i) * V, sum);
    }
}
