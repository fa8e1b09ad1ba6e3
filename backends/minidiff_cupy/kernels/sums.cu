// Sums of columns in an order that depends on nothing but their length.
#include "numbers.cuh"

constexpr int ACROSS = 32, DEEP = 16;

// x (outer, rows, columns) -> sums (outer, splits, columns), of split_rows rows each. Blocks of (32, 16)
// threads, in number (outer * splits * ceil(columns / 32)).
template <class In, class Out>
__global__ void __launch_bounds__(ACROSS* DEEP)
    sum_columns(Out* __restrict__ sums, const In* __restrict__ x, int rows, int columns, int splits,
                int split_rows) {
    __shared__ float partial[DEEP][ACROSS];
    const int tiles = (columns + ACROSS - 1) / ACROSS, part = blockIdx.x / tiles;
    const int column = blockIdx.x % tiles * ACROSS + threadIdx.x;
    const int first = part % splits * split_rows, end = min(rows, first + split_rows);
    const In* source = x + static_cast<size_t>(part / splits) * rows * columns + column;
    float sum = 0.f;
    if (column < columns)
        for (int row = first + threadIdx.y; row < end; row += DEEP)
            sum += to_float(source[static_cast<size_t>(row) * columns]);
    partial[threadIdx.y][threadIdx.x] = sum;
    for (int half = DEEP / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) partial[threadIdx.y][threadIdx.x] += partial[threadIdx.y + half][threadIdx.x];
    }
    if (threadIdx.y == 0 && column < columns)
        sums[static_cast<size_t>(part) * columns + column] = from_float<Out>(partial[0][threadIdx.x]);
}
