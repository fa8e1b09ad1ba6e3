// Matrix products of a warpgroup, four warps that begin at a multiple of four, from shared memory: sm_90a.
//
// A (64 rows) and B (N rows) lie in shared memory in lines of 128 bytes, from a multiple of 1024 bytes on, with
// 16-byte pieces swizzled: piece i of line n lies where piece i ^ n % 8 would. A line holds
//   - one row along the inner axis ("K-major"); a product takes 32 bytes of each line;
//   - or, for numbers of 16 bits, one place of the inner axis for 64 rows ("MN-major": columns, as in
//     gemm.cuh); a product takes 16 lines, and 64 rows further on come other lines.
// With g = lane / 4 and t = lane % 4, a thread of the warp w of the group has, in sums[j][2 h + e], the sum of
// row 16 w + 8 h + g and column 8 j + 2 t + e.
#pragma once
#include "numbers.cuh"
#include "tensor_cores.cuh"

#ifdef SIMT_EMULATOR
#include <wgmma.hpp>  // tests/simt/runtime
#else

// Let products see what other threads stored in shared memory: called by those that stored, before a barrier.
__device__ inline void show_to_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before the first product, and after threads have touched sums.
__device__ inline void fence_products() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Close the group of products that began after the last call.
__device__ inline void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Wait until at most PENDING groups have yet to finish.
template <int PENDING>
__device__ inline void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define NAMES_32                                                                                            \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                                            \
    NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "                     \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "                      \
    "%62, %63"
#define FOUR(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define SUMS_32 FOUR(0), FOUR(1), FOUR(2), FOUR(3), FOUR(4), FOUR(5), FOUR(6), FOUR(7)
#define SUMS_64 SUMS_32, FOUR(8), FOUR(9), FOUR(10), FOUR(11), FOUR(12), FOUR(13), FOUR(14), FOUR(15)

// The instruction, for matrices that descriptors say where to find.
template <class T, int ACROSS, bool COLUMNS>
__device__ inline void multiply_async(float (&sums)[ACROSS][4], unsigned long long a, unsigned long long b,
                                      bool add);

#define MULTIPLY_ASYNC(T, ACROSS, COLUMNS, SHAPE_AND_TYPES, NAMES, A, B, ADD, SIGNS_AND_ORDERS, ...)        \
    template <>                                                                                             \
    __device__ inline void multiply_async<T, ACROSS, COLUMNS>(                                              \
        float (&sums)[ACROSS][4], unsigned long long a, unsigned long long b, bool add) {                   \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\n"                                   \
                     "wgmma.mma_async.sync.aligned." SHAPE_AND_TYPES " {" NAMES "}, " A ", " B ", add, "    \
                     SIGNS_AND_ORDERS ";\n}"                                                                \
                     : __VA_ARGS__                                                                          \
                     : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                         \
    }
#define MULTIPLY_ASYNC_64(T, COLUMNS, STEP_AND_TYPES, SIGNS_AND_ORDERS)                                     \
    MULTIPLY_ASYNC(T, 8, COLUMNS, "m64n64" STEP_AND_TYPES, NAMES_32, "%32", "%33", "%34", SIGNS_AND_ORDERS, \
                   SUMS_32)
#define MULTIPLY_ASYNC_128(T, COLUMNS, STEP_AND_TYPES, SIGNS_AND_ORDERS)                                    \
    MULTIPLY_ASYNC(T, 16, COLUMNS, "m64n128" STEP_AND_TYPES, NAMES_64, "%64", "%65", "%66",                 \
                   SIGNS_AND_ORDERS, SUMS_64)

MULTIPLY_ASYNC_64(float, false, "k8.f32.tf32.tf32", "1, 1")
MULTIPLY_ASYNC_64(half, false, "k16.f32.f16.f16", "1, 1, 0, 0")
MULTIPLY_ASYNC_64(half, true, "k16.f32.f16.f16", "1, 1, 1, 1")
MULTIPLY_ASYNC_64(bfloat16, false, "k16.f32.bf16.bf16", "1, 1, 0, 0")
MULTIPLY_ASYNC_64(bfloat16, true, "k16.f32.bf16.bf16", "1, 1, 1, 1")
MULTIPLY_ASYNC_128(float, false, "k8.f32.tf32.tf32", "1, 1")
MULTIPLY_ASYNC_128(half, false, "k16.f32.f16.f16", "1, 1, 0, 0")
MULTIPLY_ASYNC_128(half, true, "k16.f32.f16.f16", "1, 1, 1, 1")
MULTIPLY_ASYNC_128(bfloat16, false, "k16.f32.bf16.bf16", "1, 1, 0, 0")
MULTIPLY_ASYNC_128(bfloat16, true, "k16.f32.bf16.bf16", "1, 1, 1, 1")

#undef NAMES_32
#undef NAMES_64
#undef FOUR
#undef SUMS_32
#undef SUMS_64
#undef MULTIPLY_ASYNC
#undef MULTIPLY_ASYNC_64
#undef MULTIPLY_ASYNC_128

#endif

// A matrix descriptor: where a matrix begins, two distances in bytes, and a swizzle of 128 bytes.
__device__ inline unsigned long long descriptor(const void* matrix, unsigned leading, unsigned stride) {
    const unsigned long long distances = (leading & 0x3FFFF) >> 4 | (stride & 0x3FFFFull) >> 4 << 16;
    return (shared_address(matrix) & 0x3FFFF) >> 4 | distances << 16 | 1ull << 62;
}

// sums = A B^T, or sums += A B^T if `add`, begun but not finished. `a` and `b` point to 32 bytes of lines.
// The stride is from eight rows to the next eight; the leading distance is not used, and 16 by custom.
template <class T, int ACROSS>
__device__ inline void begin_product(float (&sums)[ACROSS][4], const void* a, const void* b, bool add) {
    multiply_async<T, ACROSS, false>(sums, descriptor(a, 16, 1024), descriptor(b, 16, 1024), add);
}

// The same from columns: `a` and `b` point to 16 lines, and the lines of the next 64 rows are NEXT bytes on.
// The leading distance is from 64 rows to the next 64, the stride from eight lines to the next eight.
template <class T, int ACROSS, int NEXT>
__device__ inline void begin_product_of_columns(float (&sums)[ACROSS][4], const void* a, const void* b,
                                                bool add) {
    multiply_async<T, ACROSS, true>(sums, descriptor(a, NEXT, 1024), descriptor(b, NEXT, 1024), add);
}

// The sums of a warpgroup over `steps` stages, at least one. While one product is under way another stage is
// read by the one before it, at the latest, so that copies run STAGES - 2 ahead.
template <class S, class Loader>
__device__ void accumulate(float (&sums)[S::N / 8][4], unsigned char* shared, Loader& loader, int steps) {
    constexpr int BYTES = S::A_BYTES + S::B_BYTES, AHEAD = S::STAGES - 2;
    auto load = [&](int step) {
        unsigned char* stage = shared + step % S::STAGES * BYTES;
        if (step < steps) loader.load(stage, stage + S::A_BYTES);
        commit_copies();
    };
    for (int step = 0; step < AHEAD; step++) load(step);
    for (int step = 0; step < steps; step++) {
        wait_for_copies<AHEAD - 1>();
        show_to_products();
        __syncthreads();  // the stage has come for all, and all products but the last have been waited for
        fence_products();
        S::begin_products(sums, shared + step % S::STAGES * BYTES, step > 0);
        commit_products();
        load(step + AHEAD);
        wait_for_products<1>();
    }
    wait_for_products<0>();
}
