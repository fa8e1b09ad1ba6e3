// What NVRTC knows without a header, and CuPy's own kernels use beyond ours. Included before each of them.
#pragma once

#include <cfloat>
#include <climits>

#include "cuda.hpp"

#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 12

#define assert(...) ((__VA_ARGS__) ? void() : simt::fail(SIMT_HERE, "assert(" #__VA_ARGS__ ") failed"))

#define HOSTCUDA_FUNCTION(name)                                      \
    inline float name##f(float x) { return __builtin_##name##f(x); } \
    inline float name(float x) { return __builtin_##name##f(x); }    \
    inline double name(double x) { return __builtin_##name(x); }
#define HOSTCUDA_FUNCTION_OF_TWO(name)                                \
    inline float name(float x, float y) { return __builtin_##name##f(x, y); } \
    inline double name(double x, double y) { return __builtin_##name(x, y); }
HOSTCUDA_FUNCTION(acos)
HOSTCUDA_FUNCTION(acosh)
HOSTCUDA_FUNCTION(asin)
HOSTCUDA_FUNCTION(asinh)
HOSTCUDA_FUNCTION(atan)
HOSTCUDA_FUNCTION(atanh)
HOSTCUDA_FUNCTION(cosh)
HOSTCUDA_FUNCTION(log10)
HOSTCUDA_FUNCTION(sinh)
HOSTCUDA_FUNCTION(tan)
HOSTCUDA_FUNCTION_OF_TWO(atan2)
HOSTCUDA_FUNCTION_OF_TWO(fmod)
HOSTCUDA_FUNCTION_OF_TWO(hypot)
HOSTCUDA_FUNCTION_OF_TWO(nextafter)
#undef HOSTCUDA_FUNCTION
#undef HOSTCUDA_FUNCTION_OF_TWO

inline bool signbit(float x) { return __builtin_signbit(x); }
inline bool signbit(double x) { return __builtin_signbit(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
