"""Philox4x32-10 and normal numbers for NumPy, a block at a time.

The generic rules of `minidiff.philox` make dozens of passes over arrays of the full size and compute the tail
of the normal distribution for every number. Here the passes run over blocks that stay in the second-level
cache, into buffers that are used again, and the tail is computed for the 15 percent of numbers in it. Every
number goes through the same roundings in the same order, so the results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["random_normal", "random_words"]

BLOCKS = 4096  # per pass: 16,384 words, and the two largest buffers are 128 KiB each

# The same as in minidiff.philox, highest power first.
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
ATANH = tuple(1.0 / (2 * i + 1) for i in range(9, -1, -1))
LN2 = 0.6931471805599453

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

WORD, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)


def random_words(backend: Any, seed: int, stream: int, counter: int, blocks: int) -> NDArray[np.int64]:
    """Kernel of the rule of the same name in `minidiff.philox`: int64 (4 * blocks,)."""
    out = np.empty((blocks, 4), np.int64)
    for start, words in _philox(seed, stream, counter, blocks):
        for column, word in enumerate(words):
            out[start : start + len(word), column] = word
    return out.reshape(-1)


def random_normal(
    backend: Any,
    seed: int,
    stream: int,
    counter: int,
    size: int,
    dtype: Any,
) -> Any:
    """Kernel of the rule of the same name in `minidiff.philox`: float32 or float64 (size,)."""
    if dtype not in (np.float32, np.float64):
        return NotImplemented
    blocks = -(-size // 4)
    out = np.empty(4 * blocks, dtype)
    rows = min(blocks, BLOCKS)
    buffers = [np.empty(4 * rows) for _ in range(4)]
    for start, words in _philox(seed, stream, counter, blocks):
        count = 4 * len(words[0])
        q, *scratch = (buffer[:count] for buffer in buffers)
        for column, word in enumerate(words):
            q[column::4] = word
        out[4 * start : 4 * start + count] = _normal(q, *scratch)
    return out[:size]


def _philox(seed: int, stream: int, counter: int, blocks: int) -> Iterator[tuple[int, tuple[Words, ...]]]:
    """Pairs (number of a first block, four arrays of words from there on); the next pair overwrites them."""
    rows = min(blocks, BLOCKS)
    steps = np.arange(rows, dtype=np.uint64)
    buffers = [np.empty(rows, np.uint64) for _ in range(6)]
    for start in range(0, blocks, BLOCKS):
        count = min(BLOCKS, blocks - start)
        c0, c1, c2, c3, p0, p1 = (buffer[:count] for buffer in buffers)
        np.add(steps[:count], np.uint64(counter + start), out=c1)
        np.bitwise_and(c1, WORD, out=c0)
        np.right_shift(c1, HALF, out=c1)
        c2[:], c3[:] = stream & 0xFFFFFFFF, stream >> 32
        yield start, _rounds(seed, c0, c1, c2, c3, p0, p1)


def _rounds(seed: int, c0: Words, c1: Words, c2: Words, c3: Words, p0: Words, p1: Words) -> tuple[Words, ...]:
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        np.multiply(c0, MULTIPLIERS[0], out=p0)
        np.multiply(c2, MULTIPLIERS[1], out=p1)
        _next(c1, p1, np.uint64(k0), out=c0)
        _next(c3, p0, np.uint64(k1), out=c2)
        np.bitwise_and(p1, WORD, out=c1)
        np.bitwise_and(p0, WORD, out=c3)
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _next(word: Words, product: Words, key: np.uint64, out: Words) -> None:
    np.right_shift(product, HALF, out=out)
    np.bitwise_xor(out, word, out=out)
    np.bitwise_xor(out, key, out=out)


def _normal(q: Floats, t: Floats, p: Floats, z: Floats) -> Floats:
    """Normal numbers from words in `q`; returns `z`, and overwrites all four."""
    q += 0.5 - 2.0**31
    q *= 2.0**-32
    np.multiply(q, q, out=t)
    np.subtract(0.180625, t, out=t)
    _polynomial(CENTRE_P, t, out=z)
    _polynomial(CENTRE_Q, t, out=p)
    np.multiply(q, z, out=z)
    np.divide(z, p, out=z)
    np.abs(q, out=t)
    where = np.flatnonzero(t > 0.425)
    z[where] = _tail(q[where])
    return z


def _tail(q: Floats) -> Floats:
    m, e = np.frexp(
        0.5 - np.abs(q)
    )  # exact, as the comparisons of the generic rule are; here m is in [1/2, 1)
    small = m < 0.707
    m += np.where(small, m, 0.0)
    exponent = (e - small).astype(np.float64)
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    log = 2.0 * s * _polynomial(ATANH, square, out=np.empty_like(s)) + exponent * LN2
    r = _sqrt(-log) - 1.6
    tail = _polynomial(TAIL_P, r, out=m) / _polynomial(TAIL_Q, r, out=s)
    return np.copysign(tail, q)


def _sqrt(x: Floats) -> Floats:
    r = 0.1675 * x
    r += 1.29
    step = np.empty_like(r)
    for _ in range(4):
        np.divide(x, r, out=step)
        r += step
        r *= 0.5
    return r


def _polynomial(coefficients: tuple[float, ...], x: Floats, out: Floats) -> Floats:
    np.multiply(x, coefficients[0], out=out)
    out += coefficients[1]
    for c in coefficients[2:]:
        out *= x
        out += c
    return out
