// Rows of a table, and the gradient of the table: each row of it is the work of one warp for 32 columns,
// which finds the positions that have its number and adds up their gradients in order.
#include "vectors.cuh"

constexpr int WARP = 32;

// y (count, width) = table[indices]. Where an index is none of the table's rows, NaN, and `outside` is 1.
template <class T>
__global__ void __launch_bounds__(256)
    take_rows(T* __restrict__ y, int* __restrict__ outside, const long long* __restrict__ indices,
              const T* __restrict__ table, long long count, int width, long long rows) {
    const long long all = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count * width;
         i += all) {
        const long long position = i / width, row = indices[position];
        if (row >= 0 && row < rows) {
            y[i] = table[row * width + (i - position * width)];
        } else {
            y[i] = from_float<T>(__uint_as_float(0x7FC00000u));
            *outside = 1;
        }
    }
}

// dtable (rows, width). Blocks (rows, any number) of one warp.
template <class T>
__global__ void __launch_bounds__(WARP)
    add_rows(T* __restrict__ dtable, const long long* __restrict__ indices, const T* __restrict__ dy,
             int count, int width) {
    const long long row = blockIdx.x;
    for (int start = blockIdx.y * WARP; start < width; start += gridDim.y * WARP) {
        const int column = start + threadIdx.x;
        float sum = 0.f;
        for (int first = 0; first < count; first += WARP) {
            const int position = first + threadIdx.x;
            unsigned found = __ballot_sync(0xffffffffu, position < count && indices[position] == row);
            for (; found; found &= found - 1)
                if (column < width)
                    sum += to_float(dy[static_cast<size_t>(first + __ffs(found) - 1) * width + column]);
        }
        if (column < width) dtable[row * width + column] = from_float<T>(sum);
    }
}
