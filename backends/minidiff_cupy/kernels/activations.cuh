// Activations and their slopes, in float32.
#pragma once

__device__ __forceinline__ float logistic(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

__device__ __forceinline__ float silu(float x) { return x * logistic(x); }

__device__ __forceinline__ float silu_slope(float x) {
    const float s = logistic(x);
    return s * (1.f + x * (1.f - s));
}

constexpr float ROOT_HALF = 0.70710678118654752f, HALF_PEAK = 0.39894228040143268f;  // 1 / sqrt(2 pi)

__device__ __forceinline__ float normal_distribution(float x) { return 0.5f * (1.f + erff(ROOT_HALF * x)); }

__device__ __forceinline__ float gelu(float x) { return x * normal_distribution(x); }

__device__ __forceinline__ float gelu_slope(float x) {
    return normal_distribution(x) + x * HALF_PEAK * __expf(-0.5f * x * x);
}

constexpr float ROOT_2_OVER_PI = 0.79788456080286536f, CUBIC = 0.044715f;

__device__ __forceinline__ float gelu_tanh(float x) {
    return 0.5f * x * (1.f + tanhf(ROOT_2_OVER_PI * x * (1.f + CUBIC * x * x)));
}

__device__ __forceinline__ float gelu_tanh_slope(float x) {
    const float t = tanhf(ROOT_2_OVER_PI * x * (1.f + CUBIC * x * x));
    return 0.5f * (1.f + t + x * (1.f - t * t) * ROOT_2_OVER_PI * (1.f + 3.f * CUBIC * x * x));
}
