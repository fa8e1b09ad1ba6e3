// Attention without the matrix of scores in memory [1]: a block owns some rows of one side and goes through
// the other side a tile at a time. Backward computes the scores again, once for the gradients of the queries,
// whose blocks own queries, and once for those of keys and values, whose blocks own keys: no atomics are
// needed.
//
// Scores are in units of log 2. Three numbers are known of each query, all largest scores first: the largest
// of its scores, the share of that one's exponential in the sum of all, and what the gradients of its scores
// have in common.
//
// [1] Dao, "FlashAttention-2: faster attention with better parallelism and work partitioning", 2023,
//     arXiv:2307.08691.
#include "attention_tiles.cuh"

constexpr float LOG2_E = 1.44269504088896340736f;

// Scores of keys that must not be looked at, and of keys that do not exist. Where all are hidden, all count.
constexpr float HIDDEN = -1.7e38f;
constexpr float ABSENT = -3.4e38f;

struct Strides {  // in numbers
    long long outer, head, row, column;
};

struct Problem {
    long long all_queries;  // of all heads of all examples
    int heads, queries, keys;
    int width, value_width;
    float scale;
    int causal;
    int in_pieces;  // all rows that are read begin at multiples of 16 bytes and are as long
    Strides q, k, v, mask, y, dy, dq, dk, dv;
};

// Which matrix, of all heads of all examples, and which of its rows are this block's.
template <class S>
struct Work {
    long long head;
    int first;

    __device__ explicit Work(int rows) {
        int blocks = (rows + S::ROWS - 1) / S::ROWS;
        head = blockIdx.x / blocks;
        first = blockIdx.x % blocks * S::ROWS;
    }

    // The first row of this warp, of the matrix and in the block.
    __device__ int own() const { return first + in_block(); }
    __device__ int in_block() const { return threadIdx.x / 32 * 16; }
};

template <class T>
__device__ __forceinline__ T* matrix_of(T* data, const Strides& strides, long long head, int heads) {
    return data + head / heads * strides.outer + head % heads * strides.head;
}

// Who may look at whom.
struct Sight {
    const bool* mask;
    long long row, column;
    bool causal;

    __device__ Sight(const bool* all, const Problem& problem, long long head)
        : mask(all ? matrix_of(all, problem.mask, head, problem.heads) : nullptr),
          row(problem.mask.row),
          column(problem.mask.column),
          causal(problem.causal) {}

    __device__ bool operator()(int query, int key) const {
        return !(causal && key > query) && (!mask || mask[query * row + key * column]);
    }

    // Whether keys behind a query need not be looked at: without a mask every query has a key left.
    __device__ bool skips() const { return causal && !mask; }
};

// The score of a query and a key from the product of the two.
__device__ __forceinline__ float score(float product, int query, int key, const Problem& problem,
                                       const Sight& sees) {
    if (key >= problem.keys) return ABSENT;
    if (query >= problem.queries || sees(query, key)) return product * (problem.scale * LOG2_E);
    return HIDDEN;
}

__device__ __forceinline__ float largest_of_quad(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float sum_of_quad(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Calls body(part, step) for tiles from `step` on, each of which load(part, step) copied while the last was
// worked on; `part` is 0 or 1 in turn.
template <class Load, class Body>
__device__ __forceinline__ void for_each_tile(int step, int steps, Load load, Body body) {
    if (step < steps) load(step & 1, step);
    commit_copies();
    for (; step < steps; ++step) {
        wait_for_copies<0>();
        __syncthreads();  // the tile has come for all, and nobody reads the one before
        if (step + 1 < steps) load(step + 1 & 1, step + 1);
        commit_copies();
        body(step & 1, step);
    }
}

// The largest score so far of the two rows that a thread has a part of, and its part of the sum of
// exponentials.
template <class S>
struct Softmax {
    float largest[2] = {ABSENT, ABSENT};
    float sum[2] = {0, 0};

    // Scores become exponentials relative to the largest so far, and `sums` keep up with it.
    __device__ void add(Fragments<S::TILE>& scores, Fragments<S::WIDTH>& sums) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float next = largest[h];
#pragma unroll
            for (int j = 0; j < S::TILE / 8; ++j) {
                next = fmaxf(next, fmaxf(scores.at[j][2 * h], scores.at[j][2 * h + 1]));
            }
            next = largest_of_quad(next);
            float shrink = exp2f(largest[h] - next);
            largest[h] = next;
            sum[h] *= shrink;
#pragma unroll
            for (int n = 0; n < S::WIDTH / 8; ++n) {
                sums.at[n][2 * h] *= shrink;
                sums.at[n][2 * h + 1] *= shrink;
            }
#pragma unroll
            for (int j = 0; j < S::TILE / 8; ++j) {
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; ++e) {
                    scores.at[j][e] = exp2f(scores.at[j][e] - next);
                    sum[h] += scores.at[j][e];
                }
            }
        }
    }
};

template <class T, bool EXACT, int WIDTH, int ROWS, int TILE>
__global__ void __launch_bounds__(ROWS * 2)
    answer(const T* q, const T* k, const T* v, const bool* mask, T* y, float* known, Problem problem) {
    using S = Shape<T, EXACT, WIDTH, ROWS, TILE>;
    extern __shared__ __align__(16) unsigned char shared[];
    constexpr int NUMBERS = TILE * S::LINE;
    T* queries = reinterpret_cast<T*>(shared);
    T* tiles = queries + ROWS * S::LINE;  // of keys, of values, and the next of both

    const Problem& p = problem;
    const Work<S> work(p.queries);
    const Sight sees(mask, p, work.head);
    const Matrix<const T> q_rows = {matrix_of(q, p.q, work.head, p.heads), p.q.row, p.queries, p.width};
    const Matrix<const T> k_rows = {matrix_of(k, p.k, work.head, p.heads), p.k.row, p.keys, p.width};
    const Matrix<const T> v_rows = {matrix_of(v, p.v, work.head, p.heads), p.v.row, p.keys, p.value_width};
    const int last = sees.skips() ? min(p.keys, work.first + ROWS) : p.keys;

    Softmax<S> softmax;
    Fragments<WIDTH> sums;
    load_rows<S, ROWS>(queries, q_rows, work.first, p.in_pieces);
    auto load = [&](int part, int step) {
        load_rows<S, TILE>(tiles + 2 * part * NUMBERS, k_rows, step * TILE, p.in_pieces);
        load_rows<S, TILE>(tiles + (2 * part + 1) * NUMBERS, v_rows, step * TILE, p.in_pieces);
    };
    for_each_tile(0, (last + TILE - 1) / TILE, load, [&](int part, int step) {
        Lane lane;
        Fragments<TILE> scores;
        add_scores<S>(scores, queries + work.in_block() * S::LINE, tiles + 2 * part * NUMBERS);
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int query = work.own() + lane.g + i / 2 * 8, key = step * TILE + 8 * j + 2 * lane.t + i % 2;
                scores.at[j][i] = score(scores.at[j][i], query, key, p, sees);
            }
        }
        softmax.add(scores, sums);
        add_mixture<S>(sums, scores, tiles + (2 * part + 1) * NUMBERS);
    });

    Lane lane;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float part = 1.0f / sum_of_quad(softmax.sum[h]);
        for (int n = 0; n < WIDTH / 8; ++n) {
            sums.at[n][2 * h] *= part;
            sums.at[n][2 * h + 1] *= part;
        }
        int query = work.own() + lane.g + 8 * h;
        if (lane.t == 0 && query < p.queries) {
            long long row = work.head * p.queries + query;
            known[row] = softmax.largest[h];
            known[p.all_queries + row] = part;
        }
    }
    const Matrix<T> y_rows = {matrix_of(y, p.y, work.head, p.heads), p.y.row, p.queries, p.value_width};
    store_rows<T, WIDTH>(y_rows, work.own(), sums);
}

// The third number of each query: the product of its rows of y and of dy. A warp for each.
template <class T>
__global__ void row_products(float* known, const T* y, const T* dy, Problem problem) {
    const Problem& p = problem;
    long long row = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (row >= p.all_queries) return;
    long long head = row / p.queries, query = row % p.queries;
    const T* left = matrix_of(y, p.y, head, p.heads) + query * p.y.row;
    const T* right = matrix_of(dy, p.dy, head, p.heads) + query * p.dy.row;
    float sum = 0;
    for (int i = threadIdx.x % 32; i < p.value_width; i += 32) sum += to_float(left[i]) * to_float(right[i]);
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (threadIdx.x % 32 == 0) known[2 * p.all_queries + row] = sum;
}

// Blocks own queries.
template <class T, bool EXACT, int WIDTH, int ROWS, int TILE>
__global__ void __launch_bounds__(ROWS * 2)
    pull_queries(const T* q, const T* k, const T* v, const bool* mask, const T* dy, const float* known, T* dq,
                 Problem problem) {
    using S = Shape<T, EXACT, WIDTH, ROWS, TILE>;
    extern __shared__ __align__(16) unsigned char shared[];
    constexpr int NUMBERS = TILE * S::LINE;
    T* queries = reinterpret_cast<T*>(shared);
    T* slopes = queries + ROWS * S::LINE;
    T* tiles = slopes + ROWS * S::LINE;  // of keys, of values, and the next of both

    const Problem& p = problem;
    const Work<S> work(p.queries);
    const Sight sees(mask, p, work.head);
    const Matrix<const T> q_rows = {matrix_of(q, p.q, work.head, p.heads), p.q.row, p.queries, p.width};
    const Matrix<const T> k_rows = {matrix_of(k, p.k, work.head, p.heads), p.k.row, p.keys, p.width};
    const Matrix<const T> v_rows = {matrix_of(v, p.v, work.head, p.heads), p.v.row, p.keys, p.value_width};
    const Matrix<const T> dy_rows = {matrix_of(dy, p.dy, work.head, p.heads), p.dy.row, p.queries,
                                     p.value_width};
    const int last = sees.skips() ? min(p.keys, work.first + ROWS) : p.keys;

    Lane lane;
    float most[2] = {}, share[2] = {}, common[2] = {};
    for (int h = 0; h < 2; ++h) {
        int query = work.own() + lane.g + 8 * h;
        if (query >= p.queries) continue;
        long long row = work.head * p.queries + query;
        most[h] = known[row];
        share[h] = known[p.all_queries + row];
        common[h] = known[2 * p.all_queries + row];
    }

    Fragments<WIDTH> sums;
    load_rows<S, ROWS>(queries, q_rows, work.first, p.in_pieces);
    load_rows<S, ROWS>(slopes, dy_rows, work.first, p.in_pieces);
    auto load = [&](int part, int step) {
        load_rows<S, TILE>(tiles + 2 * part * NUMBERS, k_rows, step * TILE, p.in_pieces);
        load_rows<S, TILE>(tiles + (2 * part + 1) * NUMBERS, v_rows, step * TILE, p.in_pieces);
    };
    for_each_tile(0, (last + TILE - 1) / TILE, load, [&](int part, int step) {
        Fragments<TILE> scores, slopes_of_weights;
        const T* keys = tiles + 2 * part * NUMBERS;
        add_scores<S>(scores, queries + work.in_block() * S::LINE, keys);
        add_scores<S>(slopes_of_weights, slopes + work.in_block() * S::LINE, keys + NUMBERS);
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int h = i / 2, query = work.own() + lane.g + 8 * h;
                int key = step * TILE + 8 * j + 2 * lane.t + i % 2;
                float s = score(scores.at[j][i], query, key, p, sees);
                float slope = exp2f(s - most[h]) * share[h] * (slopes_of_weights.at[j][i] - common[h]);
                scores.at[j][i] = s > HIDDEN ? slope * p.scale : 0.0f;
            }
        }
        add_mixture<S>(sums, scores, keys);
    });
    const Matrix<T> dq_rows = {matrix_of(dq, p.dq, work.head, p.heads), p.dq.row, p.queries, p.width};
    store_rows<T, WIDTH>(dq_rows, work.own(), sums);
}

// Blocks own keys, and their scores are transposed: a row of keys, a column of queries.
template <class T, bool EXACT, int WIDTH, int ROWS, int TILE>
__global__ void __launch_bounds__(ROWS * 2)
    pull_keys(const T* q, const T* k, const T* v, const bool* mask, const T* dy, const float* known, T* dk,
              T* dv, Problem problem) {
    using S = Shape<T, EXACT, WIDTH, ROWS, TILE>;
    extern __shared__ __align__(16) unsigned char shared[];
    constexpr int NUMBERS = TILE * S::LINE;
    T* keys = reinterpret_cast<T*>(shared);
    T* values = keys + ROWS * S::LINE;
    T* tiles = values + ROWS * S::LINE;  // of queries, of slopes, and the next of both
    float* of_queries = reinterpret_cast<float*>(tiles + 4 * NUMBERS);  // what is known of two tiles'

    const Problem& p = problem;
    const Work<S> work(p.keys);
    const Sight sees(mask, p, work.head);
    const Matrix<const T> q_rows = {matrix_of(q, p.q, work.head, p.heads), p.q.row, p.queries, p.width};
    const Matrix<const T> k_rows = {matrix_of(k, p.k, work.head, p.heads), p.k.row, p.keys, p.width};
    const Matrix<const T> v_rows = {matrix_of(v, p.v, work.head, p.heads), p.v.row, p.keys, p.value_width};
    const Matrix<const T> dy_rows = {matrix_of(dy, p.dy, work.head, p.heads), p.dy.row, p.queries,
                                     p.value_width};
    const float* known_here = known + work.head * p.queries;
    const int first_step = sees.skips() ? work.first / TILE : 0;

    Fragments<WIDTH> key_sums, value_sums;
    load_rows<S, ROWS>(keys, k_rows, work.first, p.in_pieces);
    load_rows<S, ROWS>(values, v_rows, work.first, p.in_pieces);
    auto load = [&](int part, int step) {
        load_rows<S, TILE>(tiles + 2 * part * NUMBERS, q_rows, step * TILE, p.in_pieces);
        load_rows<S, TILE>(tiles + (2 * part + 1) * NUMBERS, dy_rows, step * TILE, p.in_pieces);
        for (int i = threadIdx.x; i < 3 * TILE; i += S::THREADS) {
            int query = step * TILE + i % TILE;
            bool inside = query < p.queries;
            const float* source = known_here + i / TILE * p.all_queries + (inside ? query : 0);
            copy_async<4>(of_queries + part * 3 * TILE + i, source, inside);
        }
    };
    for_each_tile(first_step, (p.queries + TILE - 1) / TILE, load, [&](int part, int step) {
        Lane lane;
        Fragments<TILE> scores, slopes;
        const T* queries = tiles + 2 * part * NUMBERS;
        const float *most = of_queries + part * 3 * TILE, *share = most + TILE, *common = share + TILE;
        add_scores<S>(scores, keys + work.in_block() * S::LINE, queries);
        add_scores<S>(slopes, values + work.in_block() * S::LINE, queries + NUMBERS);
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int column = 8 * j + 2 * lane.t + i % 2;
                int query = step * TILE + column, key = work.own() + lane.g + i / 2 * 8;
                float s = score(scores.at[j][i], query, key, p, sees);
                float weight = exp2f(s - most[column]) * share[column];
                scores.at[j][i] = weight;
                slopes.at[j][i] = s > HIDDEN ? weight * (slopes.at[j][i] - common[column]) * p.scale : 0.0f;
            }
        }
        add_mixture<S>(value_sums, scores, queries + NUMBERS);
        add_mixture<S>(key_sums, slopes, queries);
    });
    const Matrix<T> dk_rows = {matrix_of(dk, p.dk, work.head, p.heads), p.dk.row, p.keys, p.width};
    const Matrix<T> dv_rows = {matrix_of(dv, p.dv, work.head, p.heads), p.dv.row, p.keys, p.value_width};
    store_rows<T, WIDTH>(dk_rows, work.own(), key_sums);
    store_rows<T, WIDTH>(dv_rows, work.own(), value_sums);
}
