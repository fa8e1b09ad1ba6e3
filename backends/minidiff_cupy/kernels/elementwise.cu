// Functions of one or two arrays, element by element, in the order in which the result lies in memory.
#include "activations.cuh"
#include "vectors.cuh"

// A function of one or two arrays, and of up to two Python numbers.
#define FUNCTION(Name, OPERANDS, expression)                                                     \
    struct Name {                                                                                \
        static constexpr int ARRAYS = OPERANDS;                                                  \
        static __device__ __forceinline__ float of(float a, float b, float number, float most) { \
            return expression;                                                                   \
        }                                                                                        \
    };

FUNCTION(Copy, 1, a)
FUNCTION(Add, 2, a + b)
FUNCTION(AddNumber, 1, a + number)
FUNCTION(Subtract, 2, a - b)
FUNCTION(SubtractNumber, 1, a - number)
FUNCTION(SubtractFromNumber, 1, number - a)
FUNCTION(Multiply, 2, a * b)
FUNCTION(MultiplyNumber, 1, a * number)
FUNCTION(DivideNumber, 1, a / number)
FUNCTION(Clip, 1, a < number ? number : a > most ? most : a)

// Functions of one array and their pullbacks, for which a is what went in, b the gradient of what came out.
FUNCTION(Relu, 1, a > 0.f ? a : 0.f)
FUNCTION(PullRelu, 2, a > 0.f ? b : 0.f)
FUNCTION(Sigmoid, 1, logistic(a))
FUNCTION(PullSigmoid, 2, b * logistic(a) * logistic(-a))
FUNCTION(Tanh, 1, tanhf(a))
FUNCTION(PullTanh, 2, b * (1.f - tanhf(a) * tanhf(a)))
FUNCTION(Square, 1, a * a)
FUNCTION(PullSquare, 2, 2.f * a * b)
FUNCTION(PullClip, 2, number <= a && a <= most ? b : 0.f)
FUNCTION(Silu, 1, silu(a))
FUNCTION(PullSilu, 2, b * silu_slope(a))
FUNCTION(Gelu, 1, gelu(a))
FUNCTION(PullGelu, 2, b * gelu_slope(a))
FUNCTION(GeluTanh, 1, gelu_tanh(a))
FUNCTION(PullGeluTanh, 2, b * gelu_tanh_slope(a))

constexpr int MOST_AXES = 6;

// Axes that are left after neighbours were merged, innermost first, of lengths in vectors; steps along them
// in elements, 0 where an array is broadcast.
template <class Index>
struct Axes {
    Index length[MOST_AXES], y[MOST_AXES], a[MOST_AXES], b[MOST_AXES];
};

// V neighbours along the innermost axis, or one element V times.
template <int V, class T, class Index>
__device__ __forceinline__ Floats<V> read_along(const T* __restrict__ from, Index step) {
    if (step) return read_floats<V>(from);
    Floats<V> same;
    const float element = to_float(*from);
#pragma unroll
    for (int v = 0; v < V; ++v) same.value[v] = element;
    return same;
}

// y, a and b have steps of 0 or 1 along the innermost axis, or V is 1.
template <class F, class T, int V, int AXES, class Index>
__global__ void __launch_bounds__(256)
    elementwise(T* __restrict__ y, const T* __restrict__ a, const T* __restrict__ b, float number,
                float most, Index vectors, Axes<Index> axes) {
    const Index stride = static_cast<Index>(gridDim.x) * blockDim.x;
    for (Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; i < vectors; i += stride) {
        Index rest = i, at_y = 0, at_a = 0, at_b = 0;
#pragma unroll
        for (int axis = 0; axis < AXES; ++axis) {
            Index position = axis + 1 < AXES ? rest % axes.length[axis] : rest;
            if (axis + 1 < AXES) rest /= axes.length[axis];
            if (axis == 0) position *= V;
            at_y += position * axes.y[axis];
            at_a += position * axes.a[axis];
            at_b += position * axes.b[axis];
        }
        Floats<V> result = read_along<V>(a + at_a, axes.a[0]), other = {};
        if (F::ARRAYS == 2) other = read_along<V>(b + at_b, axes.b[0]);
#pragma unroll
        for (int v = 0; v < V; ++v) result.value[v] = F::of(result.value[v], other.value[v], number, most);
        write_floats(y + at_y, result);
    }
}
