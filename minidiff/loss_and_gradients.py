"""The part of a training step that a backend may compile: the loss of a batch, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from minidiff.autodiff import Parameter, Parameters, backward, record
from minidiff.backend import Array
from minidiff.random import Generator

__all__ = ["Loss", "LossAndGradients"]

Loss = Callable[[Any, Array, Array | None, Generator], Any]
Draw = tuple[Any, ...]  # rule of `minidiff.philox`, blocks before it, amount, options


class LossAndGradients:
    """The loss of a batch and its gradient, with weights and random numbers as arguments, so that it can be compiled.

    What the loss will draw is known from the call before. It is drawn ahead; what was not foreseen is drawn when it
    is asked for, and so the numbers are the same whether or not a backend compiles.

    Parameters
    ----------
    model : Module
    loss : callable
        See `Trainer`.
    rng : Generator
    trained : Module or mapping of str to Parameter, optional
        What gradients are computed for: all of the model, by default.
    """

    def __init__(self, model: Any, loss: Loss, rng: Generator, trained: Parameters | None = None) -> None:
        self._model, self._loss, self._rng, self._trained = model, loss, rng, trained or model
        self._compiled = rng.backend.compile(self._compute)
        self._draws: tuple[Draw, ...] = ()
        self._blocks = 0  # that they take

    def __call__(self, images: Array, labels: Array | None) -> tuple[Array, dict[str, Array]]:
        """The loss, and a gradient for each parameter that is trained."""
        drawn = _Ahead(self._rng).draw(self._draws)
        result: tuple[Array, dict[str, Array]] = self._compiled(
            self._model.state_dict(), images, labels, drawn
        )
        state = self._rng.state
        self._rng.state = {**state, "counter": state["counter"] + self._blocks}
        return result

    def _compute(
        self, weights: dict[str, Array], images: Array, labels: Array | None, drawn: dict[Draw, Array]
    ) -> tuple[Array, dict[str, Array]]:
        ahead = _Ahead(self._rng, drawn)
        with _holding(self._model.parameters(), weights):
            with record(self._trained):
                value = self._loss(self._model, images, labels, ahead)
            with np.errstate(all="ignore"):  # the loop looks at the loss afterwards
                grads = dict(backward(value))
        self._draws, self._blocks = tuple(ahead.asked), ahead.blocks
        return value.data, grads


class _Ahead(Generator):
    """What another generator draws next; some of it may be drawn already."""

    def __init__(self, rng: Generator, drawn: Mapping[Draw, Array] = MappingProxyType({})) -> None:
        super().__init__(0, rng.backend)
        self.state = rng.state
        self._first, self._drawn = self._counter, drawn
        self.asked: dict[Draw, None] = {}

    @property
    def blocks(self) -> int:
        """How far it went."""
        return self._counter - self._first

    def draw(self, draws: Iterable[Draw]) -> dict[Draw, Array]:
        """The numbers that will be asked for."""
        rule = super()._rule
        return {
            (name, blocks, *options): rule(name, self._first + blocks, *options)
            for name, blocks, *options in draws
        }

    def _rule(self, name: str, counter: int, amount: int, *options: Any) -> Array:
        draw = (name, counter - self._first, amount, *options)
        self.asked[draw] = None
        found = self._drawn.get(draw)
        return super()._rule(name, counter, amount, *options) if found is None else found


@contextmanager
def _holding(parameters: Mapping[str, Parameter], weights: Mapping[str, Array]) -> Iterator[None]:
    """Parameters hold other arrays inside."""
    before = {name: p.data for name, p in parameters.items()}
    try:
        for name, p in parameters.items():
            p.data = weights[name]
        yield
    finally:
        for name, p in parameters.items():
            p.data = before[name]
