// Copies many arrays in one launch. A row of the table is one copy between places at multiples of 16 bytes; a
// block takes CHUNK bytes of one row.
constexpr int ROWS = 128;  // the table is passed by value: 4 KiB of arguments are what a kernel may have
constexpr int CHUNK = 16384;
constexpr int THREADS = 256;
constexpr int VECTOR = 16;

struct Table {
    unsigned long long to[ROWS], from[ROWS];
    long long bytes[ROWS];
    int first_block[ROWS];  // of the grid; rows that are not used have the number of blocks
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

__global__ void __launch_bounds__(THREADS) copy_rows(const __grid_constant__ Table table) {
    const int row = row_of_block(table);
    const int chunk = static_cast<int>(blockIdx.x) - table.first_block[row];
    const long long start = static_cast<long long>(chunk) * CHUNK;
    const long long stop = min(start + CHUNK, table.bytes[row]);
    const char* from = reinterpret_cast<const char*>(table.from[row]);
    char* to = reinterpret_cast<char*>(table.to[row]);
    for (long long i = start + VECTOR * threadIdx.x; i < stop; i += VECTOR * THREADS) {
        if (i + VECTOR <= stop) {
            *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
        } else {
            for (long long k = i; k < stop; ++k) to[k] = from[k];
        }
    }
}
