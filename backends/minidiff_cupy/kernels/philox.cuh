// Philox4x32-10 and normal numbers, bit for bit those of minidiff/philox.py.
#pragma once

struct Words {
    unsigned word[4];
};

struct Stream {
    unsigned long long seed, stream;
};

struct WideProduct {
    unsigned high, low;
};

__device__ __forceinline__ WideProduct multiply_wide(unsigned a, unsigned b) {
    unsigned long long product = static_cast<unsigned long long>(a) * b;
    return {static_cast<unsigned>(product >> 32), static_cast<unsigned>(product)};
}

// The four words of block number `counter`.
__device__ __forceinline__ Words philox(Stream stream, unsigned long long counter) {
    unsigned c0 = static_cast<unsigned>(counter), c1 = static_cast<unsigned>(counter >> 32);
    unsigned c2 = static_cast<unsigned>(stream.stream), c3 = static_cast<unsigned>(stream.stream >> 32);
    unsigned k0 = static_cast<unsigned>(stream.seed), k1 = static_cast<unsigned>(stream.seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        WideProduct p0 = multiply_wide(c0, 0xD2511F53u), p1 = multiply_wide(c2, 0xCD9E8D57u);
        c0 = p1.high ^ c1 ^ k0;
        c1 = p1.low;
        c2 = p0.high ^ c3 ^ k1;
        c3 = p0.low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A double that is rounded after every operation: a product is never fused with the addition that follows it.
struct Rounded {
    double value;
    __device__ __forceinline__ Rounded(double x) : value(x) {}
};

__device__ __forceinline__ Rounded operator+(Rounded a, Rounded b) { return __dadd_rn(a.value, b.value); }
__device__ __forceinline__ Rounded operator-(Rounded a, Rounded b) { return __dadd_rn(a.value, -b.value); }
__device__ __forceinline__ Rounded operator*(Rounded a, Rounded b) { return __dmul_rn(a.value, b.value); }
__device__ __forceinline__ Rounded operator/(Rounded a, Rounded b) { return __ddiv_rn(a.value, b.value); }

// Horner's rule, highest power first.
template <int N> __device__ __forceinline__ Rounded polynomial(const double (&coefficients)[N], Rounded x) {
    Rounded total = coefficients[0];
#pragma unroll
    for (int i = 1; i < N; ++i) total = total * x + coefficients[i];
    return total;
}

// PPND16 for |q| <= 0.425.
__device__ __forceinline__ Rounded normal_centre(Rounded q) {
    constexpr double P[] = {2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
                            4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
                            1.3314166789178437745e2, 3.387132872796366608e0};
    constexpr double Q[] = {5.226495278852854561e3,  2.8729085735721942674e4, 3.930789580009271061e4,
                            2.1213794301586595867e4, 5.3941960214247511077e3, 6.871870074920579083e2,
                            4.2313330701600911252e1, 1.0};
    Rounded t = 0.180625 - q * q;
    return q * polynomial(P, t) / polynomial(Q, t);
}

// The natural logarithm of p = k / 2**33, k = 1 ... 2**33 - 1, as 2 atanh((m - 1) / (m + 1)) + e ln 2.
__device__ __forceinline__ Rounded log_of_33_bits(Rounded p) {
    constexpr double ATANH[] = {1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    constexpr double BOUND[] = {65536.0, 256.0, 16.0, 4.0, 2.0, 1.414};
    constexpr double POWER[] = {16.0, 8.0, 4.0, 2.0, 1.0, 1.0};
    constexpr double SHRINK[] = {1 / 65536.0, 1 / 256.0, 1 / 16.0, 0.25, 0.5, 0.5};
    Rounded m = p * 8589934592.0, e = -33.0;  // 2**33
#pragma unroll
    for (int i = 0; i < 6; ++i) {
        bool large = m.value >= BOUND[i];
        m = large ? m * SHRINK[i] : m;
        e = large ? e + POWER[i] : e;
    }
    Rounded s = (m - 1.0) / (m + 1.0);
    return 2.0 * s * polynomial(ATANH, s * s) + e * 0.6931471805599453;
}

// Heron's square root from a straight line, for x = 2.59 ... 22.9: not the device's own, which is rounded
// correctly.
__device__ __forceinline__ Rounded heron(Rounded x) {
    Rounded r = 0.1675 * x + 1.29;
#pragma unroll
    for (int i = 0; i < 4; ++i) r = 0.5 * (r + x / r);
    return r;
}

// PPND16 for |q| > 0.425.
__device__ __forceinline__ Rounded normal_tail(Rounded q) {
    constexpr double P[] = {7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.4178072517745061177e-1,
                            1.27045825245236838258e0, 3.64784832476320460504e0,  5.7694972214606914055e0,
                            4.6303378461565452959e0,  1.42343711074968357734e0};
    constexpr double Q[] = {1.05075007164441684324e-9, 5.475938084995344946e-4,  1.51986665636164571966e-2,
                            1.4810397642748007459e-1,  6.8976733498510000455e-1, 1.6763848301838038494e0,
                            2.05319162663775882187e0,  1.0};
    Rounded log = log_of_33_bits(0.5 - Rounded(fabs(q.value)));
    Rounded r = heron(-log.value) - 1.6;
    Rounded z = polynomial(P, r) / polynomial(Q, r);
    return q.value < 0.0 ? -z.value : z.value;
}

// The z at which the normal distribution function is (word + 1/2) / 2**32.
__device__ __forceinline__ double normal_from_word(unsigned word) {
    Rounded q = (Rounded(word) + (0.5 - 2147483648.0)) * (1 / 4294967296.0);
    return (fabs(q.value) <= 0.425 ? normal_centre(q) : normal_tail(q)).value;
}
