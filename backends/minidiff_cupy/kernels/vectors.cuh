// Several neighbouring numbers moved by one instruction of up to 16 bytes, and computed with in float32.
#pragma once
#include "numbers.cuh"

template <class T, int V>
struct alignas(V * sizeof(T)) Vector {
    T element[V];
};

template <int V, class T>
__device__ __forceinline__ Vector<T, V> read(const T* __restrict__ from) {
    return *reinterpret_cast<const Vector<T, V>*>(from);
}

template <class T, int V>
__device__ __forceinline__ void write(T* __restrict__ to, const Vector<T, V>& numbers) {
    *reinterpret_cast<Vector<T, V>*>(to) = numbers;
}

template <int V>
struct Floats {
    float value[V];
};

template <class T, int V>
__device__ __forceinline__ Floats<V> widen(const Vector<T, V>& numbers) {
    Floats<V> wide;
#pragma unroll
    for (int v = 0; v < V; ++v) wide.value[v] = to_float(numbers.element[v]);
    return wide;
}

template <class T, int V>
__device__ __forceinline__ Vector<T, V> narrow(const Floats<V>& wide) {
    Vector<T, V> numbers;
#pragma unroll
    for (int v = 0; v < V; ++v) numbers.element[v] = from_float<T>(wide.value[v]);
    return numbers;
}

template <int V, class T>
__device__ __forceinline__ Floats<V> read_floats(const T* __restrict__ from) {
    return widen(read<V>(from));
}

template <int V, class T>
__device__ __forceinline__ void write_floats(T* __restrict__ to, const Floats<V>& wide) {
    write(to, narrow<T>(wide));
}
