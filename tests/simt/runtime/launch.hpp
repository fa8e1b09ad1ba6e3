// Between Python and a kernel: the types of its parameters, and the call. Included after every kernel.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

struct half;
struct bfloat16;

namespace simt {

struct Parameter {
    const char* type;  // "float32", "float32*"; "" for what Python has no name for, such as structs
    int bytes;
};

template <class T>
constexpr const char* type_name() {
#define SIMT_TYPE(C, name)                                                                          \
    if (std::is_same_v<T, C>) return name;                                                          \
    if (std::is_same_v<T, C*>) return name "*";                                                     \
    if (std::is_same_v<T, const C*>) return name "*";
    SIMT_TYPE(float, "float32")
    SIMT_TYPE(double, "float64")
    SIMT_TYPE(half, "float16")
    SIMT_TYPE(bfloat16, "bfloat16")
    SIMT_TYPE(bool, "bool")
    SIMT_TYPE(signed char, "int8")
    SIMT_TYPE(unsigned char, "uint8")
    SIMT_TYPE(short, "int16")
    SIMT_TYPE(unsigned short, "uint16")
    SIMT_TYPE(int, "int32")
    SIMT_TYPE(unsigned, "uint32")
    SIMT_TYPE(long, "int64")
    SIMT_TYPE(unsigned long, "uint64")
    SIMT_TYPE(long long, "int64")
    SIMT_TYPE(unsigned long long, "uint64")
#undef SIMT_TYPE
    return std::is_pointer_v<T> ? "*" : "";
}

template <class... A>
const Parameter* parameters(void (*)(A...)) {
    static const Parameter table[] = {{type_name<A>(), static_cast<int>(sizeof(A))}..., {nullptr, 0}};
    return table;
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A>
void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}

}  // namespace simt

#define SIMT_EXPORT(...)                                                                            \
    extern "C" __attribute__((visibility("default"))) void simt_call(void** arguments) {            \
        simt::call(__VA_ARGS__, arguments);                                                         \
    }                                                                                               \
    extern "C" __attribute__((visibility("default"))) const simt::Parameter* simt_parameters() {    \
        return simt::parameters(__VA_ARGS__);                                                       \
    }
