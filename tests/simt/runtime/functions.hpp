// CUDA's functions of numbers and bits, and its atomic operations.
//
// Written with the compiler's own functions: half of the time that a small kernel takes to compile would go
// into reading <cmath>.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#define INFINITY (__builtin_inff())
#define NAN (__builtin_nanf(""))

// For float (with and without the f at the end) and double.
#define SIMT_FUNCTION(name)                                         \
    inline float name##f(float x) { return __builtin_##name##f(x); } \
    inline float name(float x) { return __builtin_##name##f(x); }    \
    inline double name(double x) { return __builtin_##name(x); }
#define SIMT_FUNCTION_OF_TWO(name)                                                \
    inline float name##f(float x, float y) { return __builtin_##name##f(x, y); }  \
    inline float name(float x, float y) { return __builtin_##name##f(x, y); }     \
    inline double name(double x, double y) { return __builtin_##name(x, y); }
SIMT_FUNCTION(ceil)
SIMT_FUNCTION(cos)
SIMT_FUNCTION(erf)
SIMT_FUNCTION(exp)
SIMT_FUNCTION(exp2)
SIMT_FUNCTION(expm1)
SIMT_FUNCTION(fabs)
SIMT_FUNCTION(floor)
SIMT_FUNCTION(log)
SIMT_FUNCTION(log1p)
SIMT_FUNCTION(log2)
SIMT_FUNCTION(nearbyint)
SIMT_FUNCTION(rint)
SIMT_FUNCTION(round)
SIMT_FUNCTION(sin)
SIMT_FUNCTION(sqrt)
SIMT_FUNCTION(tanh)
SIMT_FUNCTION(trunc)
SIMT_FUNCTION_OF_TWO(copysign)
SIMT_FUNCTION_OF_TWO(fmax)
SIMT_FUNCTION_OF_TWO(fmin)
SIMT_FUNCTION_OF_TWO(pow)
#undef SIMT_FUNCTION
#undef SIMT_FUNCTION_OF_TWO

inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float ldexpf(float x, int n) { return __builtin_ldexpf(x, n); }
inline double ldexp(double x, int n) { return __builtin_ldexp(x, n); }
inline float frexpf(float x, int* n) { return __builtin_frexpf(x, n); }
inline double frexp(double x, int* n) { return __builtin_frexp(x, n); }
inline bool isnan(double x) { return x != x; }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
inline int abs(int x) { return x < 0 ? -x : x; }

// As CUDA's: of two kinds of integers, too, and of numbers before what is not a number.
template <class A, class B>
inline auto min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmin(T(a), T(b));
    else return T(a) < T(b) ? T(a) : T(b);
}
template <class A, class B>
inline auto max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmax(T(a), T(b));
    else return T(a) > T(b) ? T(a) : T(b);
}

inline float rsqrtf(float x) { return 1.0f / sqrt(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return exp(x); }
inline float __logf(float x) { return log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }

// Rounded on their own, never fused: the compiler cannot see through the empty statement.
template <class T>
inline T simt_rounded(T x) {
#if defined(__x86_64__)
    asm("" : "+x"(x));
#else
    asm("" : "+w"(x));
#endif
    return x;
}
inline float __fadd_rn(float x, float y) { return simt_rounded(x + y); }
inline float __fsub_rn(float x, float y) { return simt_rounded(x - y); }
inline float __fmul_rn(float x, float y) { return simt_rounded(x * y); }
inline float __fdiv_rn(float x, float y) { return simt_rounded(x / y); }
inline double __dadd_rn(double x, double y) { return simt_rounded(x + y); }
inline double __dsub_rn(double x, double y) { return simt_rounded(x - y); }
inline double __dmul_rn(double x, double y) { return simt_rounded(x * y); }
inline double __ddiv_rn(double x, double y) { return simt_rounded(x / y); }
inline double __dsqrt_rn(double x) { return sqrt(x); }

inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<uint64_t>(x) * y >> 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class To, class From>
inline To simt_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
inline int __float_as_int(float x) { return simt_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return simt_bits<unsigned>(x); }
inline float __int_as_float(int x) { return simt_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return simt_bits<float>(x); }
inline long long __double_as_longlong(double x) { return simt_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return simt_bits<double>(x); }

template <class T>
inline T __ldg(const T* p) {
    return *p;
}

// One thread runs at a time and is never interrupted, so nothing need be done for atomicity.
template <class T>
inline T atomicAdd(T* p, T value) {
    T old = *p;
    *p = old + value;
    return old;
}
template <class T>
inline T atomicMax(T* p, T value) {
    T old = *p;
    *p = max(old, value);
    return old;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
