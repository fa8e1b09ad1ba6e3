// The numbers that kernels store: float, half and bfloat16. Kernels compute in float.
//
// The two short types are our own, so that no header of CUDA's is needed; their bits are those of the array.
#pragma once

struct half {
    unsigned short bits;
};
struct bfloat16 {
    unsigned short bits;
};

#ifdef SIMT_EMULATOR

inline float to_float(half x) {
    int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    float sign = x.bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? __uint_as_float(0x7FC00000u) : sign * INFINITY;
    if (exponent == 0) return sign * ldexpf(static_cast<float>(fraction), -24);
    return sign * ldexpf(static_cast<float>(1024 + fraction), exponent - 25);
}

inline half half_from(float x) {
    unsigned short sign = __float_as_uint(x) >> 16 & 0x8000;
    float size = fabsf(x);
    if (size != size) return {0x7FFF};
    if (size >= 65520.0f) return {static_cast<unsigned short>(sign | 0x7C00)};
    int exponent;
    frexpf(size, &exponent);  // size = f * 2^exponent, f in [1/2, 1)
    if (size == 0 || exponent < -13) exponent = -13;
    // Eleven bits of precision, rounded to even by nearbyint; a carry runs into the exponent as it should.
    unsigned steps = static_cast<unsigned>(nearbyintf(ldexpf(size, 11 - exponent)));
    return {static_cast<unsigned short>(sign | (steps + ((exponent + 13) << 10)))};
}

#else

__device__ __forceinline__ float to_float(half x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

__device__ __forceinline__ half half_from(float x) {
    half y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

#endif

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

// Round to nearest, ties to even.
__device__ __forceinline__ bfloat16 bfloat16_from(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    bfloat16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#else
    if (x != x) return {0x7FFF};
    unsigned bits = __float_as_uint(x);
    return {static_cast<unsigned short>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
#endif
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ half from_float<half>(float x) {
    return half_from(x);
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
    return bfloat16_from(x);
}
