// float16 as far as CuPy's headers ask CUDA for it; g++ has it.
#pragma once

struct __half_raw {
    unsigned short x;
};

struct half {
    half() = default;
    template <class T>
    half(T value) : value_(static_cast<float>(value)) {}
    half(__half_raw raw) { memcpy(&value_, &raw, sizeof raw); }
    operator float() const { return value_; }
    operator __half_raw() const { return simt_bits<__half_raw>(value_); }

private:
    _Float16 value_;
};

inline unsigned short __half_as_ushort(half x) { return simt_bits<unsigned short>(x); }
inline half __ushort_as_half(unsigned short x) { return simt_bits<half>(x); }
