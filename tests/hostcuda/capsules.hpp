// Functions in C that call functions in Python, of the types that CuPy's modules expect.
#pragma once

#include <Python.h>

#include <cstdint>
#include <type_traits>

extern "C" PyObject* callees[];

// --- arguments -------------------------------------------------------------------------------------------

inline PyObject* boxed(PyObject* x) { return Py_NewRef(x); }
inline PyObject* boxed(void*) { return Py_NewRef(Py_None); }

template <class T>
PyObject* boxed(T x) {
    if constexpr (std::is_signed_v<T>) return PyLong_FromLongLong(x);
    else return PyLong_FromUnsignedLongLong(x);
}

// --- results ---------------------------------------------------------------------------------------------

// With an exception set, what the declarations in CuPy say: `except? 0` for addresses and handles, `except? -1` for
// other numbers, NULL for objects.
template <class R>
R unboxed(PyObject* x) {
    if constexpr (std::is_pointer_v<R>) {
        return x;
    } else {
        if (x == nullptr) return std::is_same_v<R, intptr_t> ? R(0) : R(-1);
        R value = std::is_floating_point_v<R> ? R(PyFloat_AsDouble(x)) : R(PyLong_AsLongLong(x));
        Py_DECREF(x);
        return value;
    }
}

// The callee with a number, which gets the first COUNT arguments: Cython's own come last.
template <int NUMBER, int COUNT, class R, class... A>
R call(A... given) {
    PyObject* arguments[] = {boxed(given)..., nullptr};
    PyObject* result = PyObject_Vectorcall(callees[NUMBER], arguments, COUNT, nullptr);
    for (PyObject** argument = arguments; *argument; ++argument) Py_DECREF(*argument);
    return unboxed<R>(result);
}
