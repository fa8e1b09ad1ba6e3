// One step of an optimizer for up to ROWS parameters in one launch; see minidiff/optim/rules.py. A row of the
// table is one parameter with what belongs to it: arrays of one size that lie alike in memory, without gaps,
// each at a multiple of 16 bytes. A block takes CHUNK elements of one row. To be compiled without fused
// multiply-add: every number goes through the roundings of the generic rules, in their order.
#include "reductions.cuh"
#include "vectors.cuh"

constexpr int ROWS = 64;  // the table is passed by value: 4 KiB of arguments are what a kernel may have
constexpr int COLUMNS = 5;
constexpr int CHUNK = 4096;
constexpr int THREADS = 256;
constexpr double LARGEST = 1.7976931348623157e308;

struct Table {
    unsigned long long address[COLUMNS][ROWS];
    long long size[ROWS];
    int first_block[ROWS];  // of the grid; rows that are not used have the number of blocks
};

struct Chunk {
    int row;
    long long start, stop;
};

// The last row that begins at or before this block.
__device__ __forceinline__ int row_of_block(const Table& table) {
    int row = 0;
#pragma unroll
    for (int step = ROWS / 2; step > 0; step /= 2) {
        if (table.first_block[row + step] <= static_cast<int>(blockIdx.x)) row += step;
    }
    return row;
}

__device__ __forceinline__ Chunk chunk_of_block(const Table& table) {
    int row = row_of_block(table);
    long long start = static_cast<long long>(static_cast<int>(blockIdx.x) - table.first_block[row]) * CHUNK;
    return {row, start, min(start + CHUNK, table.size[row])};
}

// Elements i to i + 3 of an array of a row; those past its end are 0.
template <class T>
__device__ __forceinline__ Floats<4> load(const Table& table, int column, const Chunk& chunk, long long i) {
    const T* x = reinterpret_cast<const T*>(table.address[column][chunk.row]) + i;
    if (i + 4 <= chunk.stop) return read_floats<4>(x);
    Floats<4> y = {};
    for (int k = 0; k < 4; ++k) {
        if (i + k < chunk.stop) y.value[k] = to_float(x[k]);
    }
    return y;
}

template <class T>
__device__ __forceinline__ void store(const Table& table, int column, const Chunk& chunk, long long i,
                                      const Floats<4>& y) {
    T* x = reinterpret_cast<T*>(table.address[column][chunk.row]) + i;
    if (i + 4 <= chunk.stop) {
        write_floats(x, y);
        return;
    }
    for (int k = 0; k < 4; ++k) {
        if (i + k < chunk.stop) x[k] = from_float<T>(y.value[k]);
    }
}

// Calls body(i) for every fourth element that is this thread's.
template <class Body> __device__ __forceinline__ void for_each_four(const Chunk& chunk, Body body) {
    for (long long i = chunk.start + 4 * threadIdx.x; i < chunk.stop; i += 4 * THREADS) body(i);
}

__device__ __forceinline__ float decayed(float slope, float p, float weight_decay) {
    return weight_decay == 0 ? slope : slope + weight_decay * p;
}

// Columns: parameter, gradient, new parameter.
template <class T>
__global__ void __launch_bounds__(THREADS)
    sgd(const __grid_constant__ Table table, float lr, float weight_decay) {
    Chunk chunk = chunk_of_block(table);
    for_each_four(chunk, [&](long long i) {
        Floats<4> p = load<T>(table, 0, chunk, i), g = load<T>(table, 1, chunk, i);
        for (int k = 0; k < 4; ++k) p.value[k] -= lr * decayed(g.value[k], p.value[k], weight_decay);
        store<T>(table, 2, chunk, i, p);
    });
}

// Columns: parameter, gradient, new parameter, momentum.
template <class T>
__global__ void __launch_bounds__(THREADS) momentum(const __grid_constant__ Table table, float lr,
                                                    float weight_decay, float decay, bool nesterov) {
    Chunk chunk = chunk_of_block(table);
    for_each_four(chunk, [&](long long i) {
        Floats<4> p = load<T>(table, 0, chunk, i), g = load<T>(table, 1, chunk, i);
        Floats<4> b = load<float>(table, 3, chunk, i);
        for (int k = 0; k < 4; ++k) {
            float slope = decayed(g.value[k], p.value[k], weight_decay);
            b.value[k] = decay * b.value[k] + slope;
            p.value[k] -= lr * (nesterov ? slope + decay * b.value[k] : b.value[k]);
        }
        store<T>(table, 2, chunk, i, p);
        store<float>(table, 3, chunk, i, b);
    });
}

// Columns: parameter, gradient, new parameter, averages of the gradient and of its square.
template <class T>
__global__ void __launch_bounds__(THREADS)
    adam(const __grid_constant__ Table table, float lr, float weight_decay, float beta1, float rest1,
         float beta2, float rest2, float m_scale, float v_scale, float eps) {
    Chunk chunk = chunk_of_block(table);
    for_each_four(chunk, [&](long long i) {
        Floats<4> p = load<T>(table, 0, chunk, i), g = load<T>(table, 1, chunk, i);
        Floats<4> m = load<float>(table, 3, chunk, i), v = load<float>(table, 4, chunk, i);
        for (int k = 0; k < 4; ++k) {
            m.value[k] = beta1 * m.value[k] + rest1 * g.value[k];
            v.value[k] = beta2 * v.value[k] + rest2 * (g.value[k] * g.value[k]);
            float step = m.value[k] * m_scale / (sqrtf(v.value[k]) * v_scale + eps);
            p.value[k] -= lr * decayed(step, p.value[k], weight_decay);
        }
        store<T>(table, 2, chunk, i, p);
        store<float>(table, 3, chunk, i, m);
        store<float>(table, 4, chunk, i, v);
    });
}

// Columns: average, parameter.
template <class T>
__global__ void __launch_bounds__(THREADS) ema(const __grid_constant__ Table table, float rest) {
    Chunk chunk = chunk_of_block(table);
    for_each_four(chunk, [&](long long i) {
        Floats<4> average = load<float>(table, 0, chunk, i), p = load<T>(table, 1, chunk, i);
        for (int k = 0; k < 4; ++k) average.value[k] += rest * (p.value[k] - average.value[k]);
        store<float>(table, 0, chunk, i, average);
    });
}

struct Sum {
    double value;
    __device__ static Sum none() { return {0}; }
    __device__ Sum with(Sum other) const { return {value + other.value}; }
    __device__ Sum exchanged(int mask) const { return {__shfl_xor_sync(0xffffffffu, value, mask)}; }
};

// Column: an array. Writes the sum of squares of each block.
template <class T>
__global__ void __launch_bounds__(THREADS)
    square_sum(const __grid_constant__ Table table, double* __restrict__ partial) {
    Chunk chunk = chunk_of_block(table);
    double total = 0;
    for_each_four(chunk, [&](long long i) {
        Floats<4> x = load<T>(table, 0, chunk, i);
        float sum = 0;
        for (int k = 0; k < 4; ++k) sum += x.value[k] * x.value[k];
        total += sum;
    });
    total = sum_over_block(Sum{total}).value;
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void __launch_bounds__(THREADS)
    sum_of_partials(double* __restrict__ out, const double* __restrict__ partial, int count) {
    double total = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) total += partial[i];
    total = sum_over_block(Sum{total}).value;
    if (threadIdx.x == 0) out[0] = total;
}

// Columns: gradient, clipped gradient. A norm that is not finite clips nothing.
template <class T>
__global__ void __launch_bounds__(THREADS)
    clip(const __grid_constant__ Table table, const double* __restrict__ squares, double max_norm) {
    Chunk chunk = chunk_of_block(table);
    double norm = sqrt(squares[0]);
    bool clipped = max_norm < norm && norm <= LARGEST;
    float factor = clipped ? static_cast<float>(max_norm / norm) : 1.0f;
    for_each_four(chunk, [&](long long i) {
        Floats<4> g = load<T>(table, 0, chunk, i);
        for (int k = 0; k < 4; ++k) g.value[k] *= factor;
        store<T>(table, 1, chunk, i, g);
    });
}
