// Asynchronous copies, matrix loads and matrix products of a warp: the only file with PTX for them.
//
// A fragment is what the 32 lanes hold together of a small matrix: with g = lane / 4 and t = lane % 4,
//   of A, 16 rows of 32 bytes:  a[0] row g,     bytes 4 t to 4 t + 3     a[2] the same, 16 bytes further on
//                               a[1] row g + 8, bytes 4 t to 4 t + 3     a[3] the same, 16 bytes further on
//   of B, 8 columns of 32 bytes: b[0] column g, bytes 4 t to 4 t + 3     b[1] the same, 16 bytes further on
//   of C, 16 x 8 floats:        c[0], c[1] row g, columns 2 t, 2 t + 1   c[2], c[3] row g + 8, the same
// whatever the type: 32 bytes are 8 float (TF32), 16 half or 16 bfloat16, one step of the inner axis.
#pragma once
#include "numbers.cuh"

#ifdef SIMT_EMULATOR
#include <tensor_cores.hpp>  // tests/simt/runtime
#else

// 32-bit address of something in shared memory.
__device__ inline unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

template <int BYTES>
struct alignas(BYTES) Bytes {
    unsigned char byte[BYTES];
};

// Copy BYTES bytes to shared memory, or zeros if not `wanted` (then `from` is not read). They are there for
// this thread after wait_for_copies, for others after a barrier that follows it. Of 2 bytes, and before
// sm_80, the copy is there at once. What is read AGAIN soon is kept in the L1 cache.
template <int BYTES, bool AGAIN = false>
__device__ inline void copy_async(void* to, const void* from, bool wanted) {
#if __CUDA_ARCH__ >= 800
    if constexpr (BYTES == 16 && !AGAIN) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(wanted ? 16 : 0));
        return;
    } else if constexpr (BYTES >= 4) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(wanted ? BYTES : 0), "n"(BYTES));
        return;
    }
#endif
    Bytes<BYTES> piece = {};
    if (wanted) piece = *static_cast<const Bytes<BYTES>*>(from);
    *static_cast<Bytes<BYTES>*>(to) = piece;
}

// Close the group of copies that began after the last call.
__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

// Wait until at most PENDING of this thread's groups are on their way.
template <int PENDING>
__device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Four matrices of 8 rows of 16 bytes; lane i gives the address of row i % 8 of matrix i / 8. A lane gets, of
// each, bytes 4 t to 4 t + 3 of row g.
__device__ inline void load_matrices(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix of 8 x 8 numbers of 16 bits transposed: numbers g of rows 2 t and 2 t + 1.
__device__ inline void load_transposed_matrices(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// A float as TF32, rounded to nearest; the tensor cores would cut it off.
__device__ inline unsigned as_tf32(unsigned bits) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(bits)));
#endif
    return bits;
}

#define MULTIPLY_ADD(SHAPE_AND_TYPES)                                                                     \
    asm volatile("mma.sync.aligned." SHAPE_AND_TYPES                                                      \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                       \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

// C += A B of fragments, for elements of type T; float and bfloat16 from sm_80 on.
template <class T>
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

template <>
__device__ inline void multiply_add<half>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    MULTIPLY_ADD("m16n8k16.row.col.f32.f16.f16.f32");
#else
    for (int i = 0; i < 2; i++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"
                     " {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
#endif
}

#if __CUDA_ARCH__ >= 800
template <>
__device__ inline void multiply_add<float>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    MULTIPLY_ADD("m16n8k8.row.col.f32.tf32.tf32.f32");
}

template <>
__device__ inline void multiply_add<bfloat16>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    MULTIPLY_ADD("m16n8k16.row.col.f32.bf16.bf16.f32");
}
#endif

#undef MULTIPLY_ADD

#endif
