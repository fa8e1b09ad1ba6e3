// One thread runs at a time and is never interrupted; the emulator has atomicAdd and atomicMax.
#pragma once

#include "cupy/carray.cuh"

template <class T>
T atomicMin(T* p, T value) {
    T old = *p;
    *p = min(old, value);
    return old;
}
template <class T>
T atomicExch(T* p, T value) {
    T old = *p;
    *p = value;
    return old;
}
template <class T>
T atomicCAS(T* p, T expected, T value) {
    T old = *p;
    if (old == expected) *p = value;
    return old;
}
