// bfloat16 as far as CuPy's headers ask CUDA for it.
#pragma once

struct __nv_bfloat16_raw {
    unsigned short x;
};

struct __nv_bfloat16 {
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) {
        unsigned bits = __float_as_uint(value);
        bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
        bits_ = nan ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
    }
    explicit __nv_bfloat16(__nv_bfloat16_raw raw) : bits_(raw.x) {}
    operator float() const { return __uint_as_float(unsigned(bits_) << 16); }
    operator __nv_bfloat16_raw() const { return {bits_}; }

private:
    unsigned short bits_;
};

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return simt_bits<unsigned short>(x); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return simt_bits<__nv_bfloat16>(x); }
inline bool __hisnan(__nv_bfloat16 x) { return (__bfloat16_as_ushort(x) & 0x7FFF) > 0x7F80; }
inline int __hisinf(__nv_bfloat16 x) { return (__bfloat16_as_ushort(x) & 0x7FFF) == 0x7F80; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
