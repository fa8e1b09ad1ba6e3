"""Random words and normal numbers, computed alike on every device.

The integers come from Philox4x32-10 [1]_, which needs nothing but
integer arithmetic. Normal numbers come from them by the inverse of the normal distribution function [2]_, in
nothing but additions, multiplications, divisions and comparisons, which every library rounds alike. The
logarithm and the cosine (and so the method of Box and Muller) differ in the last place from library to
library, and so does the square root: PyTorch with MKL rounds one float64 root in a hundred the other way.

Two rules can be replaced by a backend's `kernels`. Each must return what the generic rule of the same name
returns, bit for bit, as a one-dimensional array on the device that the backend stands for; it may return
`NotImplemented`, and it is never asked for nothing (`blocks` and `size` are at least 1):

    random_words(backend, seed, stream, counter, blocks) -> int64 (4 * blocks,), each in [0, 2**32)
    random_normal(backend, seed, stream, counter, size, dtype) -> dtype (size,)

`seed`, `stream` and `counter` are ints in [0, 2**64), and the last block, `counter + blocks - 1`, is too. A
kernel of `random_normal` computes in float64 without fused multiply-add (in CUDA `__dmul_rn`, `__dadd_rn`, or
`-fmad=false`), rounds to float32 unless `dtype` is float64, and converts that to any other `dtype`.

References
----------
.. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
.. [2] Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics
   37 (3), 1988, PPND16.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from minidiff.backend import Array, Backend, Rule

__all__ = ["RULES", "WORD", "normal_from_words", "philox", "random_normal", "random_words", "round_to"]

WORD = 0xFFFFFFFF  # the low 32 bits

# Coefficients of PPND16, highest power first: numerator and denominator of the centre and of the tail. The
# third range of the paper, p < exp(-25), is below the least p that a 32-bit word can give, 2**-33.
# fmt: off
CENTRE_P = (
    2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.387132872796366608e0)
CENTRE_Q = (
    5.226495278852854561e3, 2.8729085735721942674e4, 3.930789580009271061e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.871870074920579083e2, 4.2313330701600911252e1, 1.0)
TAIL_P = (
    7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.4178072517745061177e-1, 1.27045825245236838258e0,
    3.64784832476320460504e0, 5.7694972214606914055e0, 4.6303378461565452959e0, 1.42343711074968357734e0)
TAIL_Q = (
    1.05075007164441684324e-9, 5.475938084995344946e-4, 1.51986665636164571966e-2, 1.4810397642748007459e-1,
    6.8976733498510000455e-1, 1.6763848301838038494e0, 2.05319162663775882187e0, 1.0)
# fmt: on
ATANH = tuple(1.0 / (2 * i + 1) for i in range(9, -1, -1))  # atanh(s) / s in powers of s**2, within 3e-17
LN2 = 0.6931471805599453


def philox(c0: Any, c1: Any, c2: Any, c3: Any, seed: int) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10 of 32-bit words, held in int64 arrays or in Python ints.

    A product of two words may pass 2**63 and wrap to a negative int64; its 64 bits are right all the same,
    and so is `(product >> 32) & WORD`, whatever the shift does with the sign.
    """
    k0, k1 = seed & WORD, seed >> 32
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & WORD) ^ c1 ^ k0, p1 & WORD, ((p0 >> 32) & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def random_words(backend: Backend, seed: int, stream: int, counter: int, blocks: int) -> Array:
    """The words of `blocks` blocks from `counter` on, int64 (4 * blocks,)."""
    xp = backend.xp
    # The index crosses from the host because `from_numpy` is what knows one numbered device from another.
    index = backend.from_numpy(np.arange(blocks, dtype=np.int64)) + (counter & WORD)
    c1 = (index >> 32) + (counter >> 32)
    words = philox(index & WORD, c1, stream & WORD, stream >> 32, seed)
    return xp.reshape(xp.stack(words, axis=1), (4 * blocks,))


def random_normal(backend: Backend, seed: int, stream: int, counter: int, size: int, dtype: Any) -> Array:
    """`size` standard normal numbers, the i-th from the i-th word."""
    xp = backend.xp
    z = normal_from_words(xp, random_words(backend, seed, stream, counter, -(-size // 4))[:size])
    return round_to(xp, z, dtype)


def normal_from_words(xp: Any, words: Array) -> Array:
    """The float64 z at which the normal distribution function is `p = (word + 1/2) / 2**32` (PPND16)."""
    q = (xp.astype(words, xp.float64) + (0.5 - 2.0**31)) * 2.0**-32  # p - 1/2, exactly
    t = 0.180625 - q * q
    centre = q * _polynomial(CENTRE_P, t) / _polynomial(CENTRE_Q, t)
    r = _sqrt(-_log_of_33_bits(xp, 0.5 - xp.abs(q))) - 1.6
    tail = _polynomial(TAIL_P, r) / _polynomial(TAIL_Q, r)
    return xp.where(xp.abs(q) <= 0.425, centre, xp.where(q < 0.0, -tail, tail))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    return reduce(lambda total, c: total * x + c, coefficients[1:], coefficients[0])


def _log_of_33_bits(xp: Any, p: Array) -> Array:
    """The natural logarithm of p = k / 2**33, k = 1 ... 2**33 - 1, as 2 atanh((m - 1) / (m + 1)) + e ln 2."""
    m, e = p * 2.0**33, -33.0
    for bound, power in ((2.0**16, 16), (2.0**8, 8), (2.0**4, 4), (2.0**2, 2), (2.0, 1), (1.414, 1)):
        large = m >= bound
        m = xp.where(large, m * 2.0**-power, m)
        e = e + float(power) * xp.astype(large, xp.float64)
    s = (m - 1.0) / (m + 1.0)
    return 2.0 * s * _polynomial(ATANH, s * s) + e * LN2


def _sqrt(x: Array) -> Array:
    """Heron's square root from a straight line within 7.1 % for x = 2.59 ... 22.9, where p is in the tail."""
    r = 0.1675 * x + 1.29
    for _ in range(4):  # to 2e-3, 3e-6, 3e-12, and then to rounding
        r = 0.5 * (r + x / r)
    return r


def round_to(xp: Any, x: Array, dtype: Any) -> Array:
    """Float64 to `dtype`, by way of float32: libraries differ in how they round float64 to 16 bits."""
    return x if dtype == xp.float64 else xp.astype(xp.astype(x, xp.float32), dtype)


RULES: dict[str, Rule] = {"random_words": random_words, "random_normal": random_normal}
