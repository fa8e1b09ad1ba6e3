// What the compiler's checks of undefined behaviour call (-fsanitize=alignment and others), in place of its own
// library: the launch ends with the place in the kernel. On a GPU a misaligned vector is an error, too, and an
// index that overflows is a wrong address.
#pragma once

#include "block.hpp"

namespace simt {

struct SourceLocation {  // every handler's data begin with it
    const char* file;
    unsigned line, column;
};

struct TypeMismatch {
    SourceLocation at;
    const void* type;
    unsigned char log_alignment, kind;
};

inline Place place_of(const void* data) {
    const auto* at = static_cast<const SourceLocation*>(data);
    return {at->file, static_cast<int>(at->line)};
}

}  // namespace simt

#define SIMT_CHECK(name, message, ...)                             \
    extern "C" void __ubsan_handle_##name(void* data, __VA_ARGS__) { \
        simt::fail(simt::place_of(data), message);                 \
    }
SIMT_CHECK(out_of_bounds, "an index outside of its array", uintptr_t)
SIMT_CHECK(shift_out_of_bounds, "a shift by less than 0 or more than the width", uintptr_t, uintptr_t)
SIMT_CHECK(divrem_overflow, "an integer divided by 0, or a quotient that overflows", uintptr_t, uintptr_t)
SIMT_CHECK(add_overflow, "a sum of integers that overflows", uintptr_t, uintptr_t)
SIMT_CHECK(sub_overflow, "a difference of integers that overflows", uintptr_t, uintptr_t)
SIMT_CHECK(mul_overflow, "a product of integers that overflows", uintptr_t, uintptr_t)
SIMT_CHECK(negate_overflow, "a negated integer that overflows", uintptr_t)
#undef SIMT_CHECK

extern "C" void __ubsan_handle_type_mismatch_v1(void* data, uintptr_t address) {
    unsigned alignment = 1u << static_cast<simt::TypeMismatch*>(data)->log_alignment;
    simt::Place place = simt::place_of(data);
    if (address == 0) simt::fail(place, "a null pointer is used");
    simt::fail(place, "the address %p is not a multiple of %u", reinterpret_cast<void*>(address), alignment);
}
