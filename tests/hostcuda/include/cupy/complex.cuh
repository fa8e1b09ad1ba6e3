// CuPy's kernels name complex numbers also where there are none; Thrust's, which CuPy has, take g++ longer than all else.
#pragma once

template <class T>
struct complex {
    T re, im;
    complex(T re = 0, T im = 0) : re(re), im(im) {}
    T real() const { return re; }
    T imag() const { return im; }
};
