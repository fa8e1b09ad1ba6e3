"""Random arrays that are the same, bit for bit, on every device.

Randomness here is a function of (seed, counter), not a hidden state: two integers resume a stream, and a
GPU draws the numbers that a CPU draws. The numbers are made in `minidiff.philox`; here they become arrays of
a shape, a range and a dtype, and the counter moves on.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeAlias

from minidiff.backend import Array, Backend, get_backend
from minidiff.philox import RULES, WORD, philox, round_to

__all__ = ["Generator", "observe_draws", "replay_draws"]

Record: TypeAlias = "dict[Generator, int]"

LIMIT = 2**64  # of seeds and counters
DRAWS, CHILDREN = 0, 1  # streams: the numbers of a generator, the seeds of the generators split from it


class Generator:
    """A stream of random arrays, the same on every device.

    A draw of n numbers takes `ceil(n / 4)` blocks of four 32-bit words; word `i % 4` of block
    `counter + i // 4` makes number i. Shapes are ints or tuples of ints; an empty draw takes nothing. A
    generator is meant for one thread; `split` makes one for another.

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1. Streams of different seeds are independent, however close the seeds.
    device : str or Backend
        Where the arrays are made: "cpu", "cuda", "cuda:1".

    Raises
    ------
    ValueError
        If `seed` is negative or has more than 64 bits, or no backend offers `device`.

    Examples
    --------
    >>> rng = Generator(7)
    >>> noise = rng.normal((2, 3, 8, 8))
    >>> rng.state
    {'seed': 7, 'counter': 96}
    """

    def __init__(self, seed: int, device: str | Backend = "cpu") -> None:
        self._seed = _within("Generator", "seed", seed, LIMIT - 1)
        self._counter = 0
        self._backend = get_backend(device)

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, device={self._backend.device!r}, counter={self._counter})"

    @property
    def backend(self) -> Backend:
        """Where the arrays are made."""
        return self._backend

    @property
    def state(self) -> dict[str, int]:
        """Everything that decides the numbers to come: `{"seed": ..., "counter": ...}`, which JSON can hold.

        Assigning it takes a stream up again, on any device.
        """
        return {"seed": self._seed, "counter": self._counter}

    @state.setter
    def state(self, state: Mapping[str, int]) -> None:
        if not isinstance(state, Mapping) or set(state) != {"seed", "counter"}:
            raise ValueError(f"Generator.state: expected {{'seed': int, 'counter': int}}, got {state!r}")
        seed = _within("Generator.state", "seed", state["seed"], LIMIT - 1)
        self._counter = _within("Generator.state", "counter", state["counter"], LIMIT)
        self._seed = seed

    def normal(self, shape: int | Iterable[int], *, dtype: Any = None) -> Array:
        """Numbers of the standard normal distribution, in any real floating-point type (float32).

        One word makes one number: there are 2**32 different ones, up to 6.34 from zero, in float64 too.
        """
        size, shape = _size("normal", shape)
        dtype = self._float("normal", dtype)
        counter = self._advance(_blocks(size))
        z = self._rule("random_normal", counter, size, dtype)
        return self._backend.xp.reshape(z, shape)

    def uniform(
        self, shape: int | Iterable[int], *, low: float = 0.0, high: float = 1.0, dtype: Any = None
    ) -> Array:
        """Evenly distributed numbers, `low <= x < high`, in any real floating-point type (float32).

        They are 2**-32 of the way from `low` to `high` apart, before they are rounded to `dtype`.

        Raises
        ------
        ValueError
            If `dtype` has no numbers from `low` up to `high`, or one of them is not finite.
        """
        xp = self._backend.xp
        size, shape = _size("uniform", shape)
        dtype = self._float("uniform", dtype)
        low, high = float(low), float(high)
        limits = xp.finfo(dtype)
        most, eps, tiny = float(limits.max), float(limits.eps), float(limits.smallest_normal)
        last = high - max(abs(high), tiny) * eps  # rounding to `dtype` takes this to less than `high`
        if not (-most <= low <= last < high <= most and high - low <= most):
            raise ValueError(
                f"uniform: no {limits.dtype} range from low={low} up to high={high}; give low < high, "
                f"more than {eps:.1e} of their size and at most {most:.1e} apart"
            )
        x = low + (high - low) * (xp.astype(self._words(size), xp.float64) * 2.0**-32)
        return xp.reshape(round_to(xp, xp.clip(x, None, last), dtype), shape)

    def integers(self, low: int, high: int, shape: int | Iterable[int]) -> Array:
        """Evenly distributed int64 numbers, `low <= x < high`.

        Number x is `low + floor(word * (high - low) / 2**32)`, so that the probability of each differs from
        1 / (high - low) by less than 2**-32: not at all where high - low is a power of two, and by a part in
        four million for the 1,000 steps of a diffusion process.

        Raises
        ------
        ValueError
            If `high - low` is not from 1 to 2**32, or the ends do not fit into int64.
        """
        size, shape = _size("integers", shape)
        low, high = _integer("integers", "low", low), _integer("integers", "high", high)
        span = high - low
        if not 1 <= span <= 2**32:
            raise ValueError(
                f"integers: high - low = {high} - {low} = {span} is not from 1 to 2**32; "
                "`high` is left out, and one 32-bit word makes one number"
            )
        if low < -(2**63) or high > 2**63:
            raise ValueError(f"integers: low={low} and high={high} do not fit into int64, -2**63 to 2**63")
        x = low + ((self._words(size) * span >> 32) & WORD)
        return self._backend.xp.reshape(x, shape)

    def permutation(self, n: int) -> Array:
        """The numbers 0 ... n - 1 in random order, int64 (n,): a stable sort of n words.

        Two equal words keep their order; of n words, about n**2 / 2**33 pairs are equal.
        """
        n, _ = _size("permutation", _integer("permutation", "n", n))
        xp = self._backend.xp
        return xp.astype(xp.argsort(self._words(n), stable=True), xp.int64)

    def split(self) -> Generator:
        """An independent generator on the same device, decided by (seed, counter); takes one block.

        The seed of the child is two words of a stream that is used for nothing else.
        """
        counter = self._advance(1)
        low, high, _, _ = philox(counter & WORD, counter >> 32, CHILDREN, 0, self._seed)
        return Generator(high << 32 | low, self._backend)

    def _words(self, size: int) -> Array:
        blocks = _blocks(size)
        return self._rule("random_words", self._advance(blocks), blocks)[:size]

    def _rule(self, name: str, counter: int, amount: int, *options: Any) -> Array:
        arguments = (self._seed, DRAWS, counter, amount, *options)
        kernel = self._backend.kernels.get(name) if amount else None
        result: Any = NotImplemented if kernel is None else kernel(self._backend, *arguments)
        return RULES[name](self._backend, *arguments) if result is NotImplemented else result

    def _advance(self, blocks: int) -> int:
        first = self._counter
        if first + blocks > LIMIT:
            raise ValueError(f"{self!r} has only {LIMIT - first} of {blocks} blocks left; take a new seed")
        if blocks:
            for record in _observers.get():
                record.setdefault(self, first)
        self._counter = first + blocks
        return first

    def _float(self, what: str, dtype: Any) -> Any:
        xp = self._backend.xp
        if dtype is None:
            return xp.float32
        with suppress(TypeError, AttributeError):  # from libraries that do not know the type at all
            if xp.isdtype(dtype, "real floating"):
                return dtype
        name = getattr(dtype, "__name__", dtype)
        raise ValueError(
            f"{what}: {name} is no real floating-point type of {xp.__name__}; draw float32 and cast"
        )


_observers: ContextVar[tuple[Record, ...]] = ContextVar("observers", default=())


@contextmanager
def observe_draws() -> Iterator[Record]:
    """Record who draws inside, and from which counter: `{generator: first counter}`.

    Gradient checkpointing runs a function a second time and must meet the same noise; see `replay_draws`.
    What other threads draw meanwhile is not recorded.
    """
    record: Record = {}
    token = _observers.set((*_observers.get(), record))
    try:
        yield record
    finally:
        _observers.reset(token)


@contextmanager
def replay_draws(record: Mapping[Generator, int]) -> Iterator[None]:
    """Let the generators of a record draw once more what they drew then.

    Afterwards they go on where they were. An `observe_draws` around the replay does not see it, since it
    leaves no trace; one inside does.
    """
    before = {generator: generator._counter for generator in record}
    token = _observers.set(())
    try:
        _rewind(record)
        yield
    finally:
        _rewind(before)
        _observers.reset(token)


def _rewind(record: Mapping[Generator, int]) -> None:
    for generator, counter in record.items():
        generator._counter = counter


def _blocks(size: int) -> int:
    return -(-size // 4)


def _size(what: str, shape: int | Iterable[int]) -> tuple[int, tuple[int, ...]]:
    sides = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    sides = tuple(_integer(what, "shape", side) for side in sides)
    if any(side < 0 for side in sides):
        raise ValueError(f"{what}: shape {sides} has a negative side; sides are 0 or more")
    return math.prod(sides), sides


def _integer(what: str, name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what}: {name} takes integers, got {value!r} ({type(value).__name__})") from None


def _within(what: str, name: str, value: Any, most: int) -> int:
    number = _integer(what, name, value)
    if not 0 <= number <= most:
        raise ValueError(f"{what}: {name} {number} is not from 0 to {most}; take it modulo 2**64")
    return number
