"""A conformance case: one call of one function of `minidiff.ops`, with inputs made from a seed.

Inputs are values, not arrays, so that the table of cases is read and imported without computing anything.
The same case gives the same numbers on every array library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from minidiff import ops
from minidiff.backend import Array, Backend
from minidiff.random import Generator

__all__ = [
    "Case",
    "Input",
    "Seed",
    "booleans",
    "case",
    "labels",
    "normal",
    "positive",
    "probabilities",
    "unit",
]

Host: TypeAlias = np.ndarray[Any, Any]

# What each kind of input holds, from standard normal and uniform numbers of its shape.
KINDS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "positive": lambda rng, shape: rng.uniform(0.5, 2.0, shape),
    "unit": lambda rng, shape: rng.uniform(-0.9, 0.9, shape),
    "probabilities": lambda rng, shape: rng.uniform(0.05, 0.95, shape),
    "booleans": lambda rng, shape: rng.uniform(size=shape) < 0.6,
}


@dataclass(frozen=True)
class Input:
    """An array to be made: a kind of numbers and a shape; `below` is the number of labels."""

    kind: str
    shape: tuple[int, ...]
    below: int = 0

    def make(self, rng: np.random.Generator) -> Host:
        """The numbers: float64, int64 or bool."""
        if self.kind == "labels":
            return rng.integers(self.below, size=self.shape)
        return np.asarray(KINDS[self.kind](rng, self.shape))


def normal(*shape: int) -> Input:
    """Standard normal numbers."""
    return Input("normal", shape)


def positive(*shape: int) -> Input:
    """Numbers from 0.5 to 2."""
    return Input("positive", shape)


def unit(*shape: int) -> Input:
    """Numbers from -0.9 to 0.9."""
    return Input("unit", shape)


def probabilities(*shape: int) -> Input:
    """Numbers from 0.05 to 0.95."""
    return Input("probabilities", shape)


def booleans(*shape: int) -> Input:
    """True for six of ten."""
    return Input("booleans", shape)


def labels(below: int, *shape: int) -> Input:
    """Integers from 0 to `below` - 1."""
    return Input("labels", shape, below)


@dataclass(frozen=True)
class Seed:
    """An option that stands for a new `Generator` in every call."""

    seed: int


@dataclass(frozen=True)
class Case:
    """One call of one function.

    Attributes
    ----------
    op : str
        Name in `minidiff.ops`.
    inputs : tuple
        `Input`s become arrays; numbers, None and keys are passed as they are. Floating
        inputs are differentiated.
    options : mapping
        Keyword arguments.
    note : str
        What is special about it.
    layout : str
        How the arrays lie in memory: "contiguous", "transposed", "strided" or "channels last".
    keeps_dtype : bool
        Whether the result has the dtype of the first floating input.
    sequence : bool
        Whether the function takes one list of arrays.
    """

    op: str
    inputs: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    layout: str = "contiguous"
    keeps_dtype: bool = True
    sequence: bool = False

    def __str__(self) -> str:
        shown = [_show(x) for x in self.inputs] + [f"{k}={_show(v)}" for k, v in self.options.items()]
        remarks = [x for x in (self.note, self.layout if self.layout != "contiguous" else "") if x]
        return f"{self.op}({', '.join(shown)})" + "".join(f" [{x}]" for x in remarks)

    def hosts(self) -> list[Any]:
        """The inputs with NumPy arrays, float64 where they are floating."""
        rng = np.random.default_rng(list(str(self).encode()))
        return [x.make(rng) if isinstance(x, Input) else x for x in self.inputs]

    def call(self, backend: Backend, inputs: list[Any]) -> list[Array]:
        """The results of the function, as a list, for inputs that live on `backend`."""
        options = {
            k: Generator(v.seed, backend) if isinstance(v, Seed) else v for k, v in self.options.items()
        }
        y = getattr(ops, self.op)(*([inputs] if self.sequence else inputs), **options)
        return list(y) if isinstance(y, list | tuple) else [y]


def _show(x: Any) -> str:
    if not isinstance(x, Input):
        return repr(x)
    kind = "" if x.kind == "normal" else f"{x.kind} "
    return kind + "x".join(map(str, x.shape)) if x.shape else f"{kind}()"


def case(op: str, *inputs: Any, note: str = "", layout: str = "contiguous", **options: Any) -> Case:
    """A `Case`, written like a call; `dtype` options and the losses decide the dtype of their result."""
    own_dtype = "dtype" in options or op == "astype" or op.endswith(("loss", "logits", "cross_entropy"))
    sequence = op in ("concat", "linear_combination", "stack")
    return Case(op, inputs, options, note, layout, keeps_dtype=not own_dtype, sequence=sequence)
