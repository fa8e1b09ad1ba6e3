"""What all optimizers share: a rule, its options, and its state for each parameter.

A parameter's array is replaced and never written to, so whoever holds an old one still has the old numbers.
All scalars are Python floats: no step waits for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from minidiff.autodiff import Parameter, Parameters
from minidiff.backend import Array, backend_of
from minidiff.optim import rules
from minidiff.optim.lr import LearningRate
from minidiff.optim.states import copied, loaded, named_parameters, wide_zeros

__all__ = ["Optimizer"]


class Optimizer:
    """What all optimizers do: `step`, and save and load their state.

    Parameters
    ----------
    parameters : Module or mapping of str to Parameter
        What is trained.
    lr : float or function
        The learning rate, or a function from the step, counted from 0, to it; see `minidiff.optim.lr`.
    rule : callable
        `rule(xp, p, g, *state, lr=..., step=..., **options) -> (p, *state)`; see `minidiff.optim.rules`.
    slots : tuple of str
        What the rule's state is called: ("m", "v").
    **options
        Of the rule.

    Attributes
    ----------
    trained : dict of str to Parameter
        What is trained.
    steps : int
        How many steps were taken.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | LearningRate,
        rule: Callable[..., Any],
        slots: tuple[str, ...],
        **options: Any,
    ) -> None:
        self._name = type(self).__name__
        self.trained = named_parameters(self._name, parameters)
        self._lr = lr
        self._rule, self._slots, self._options = rule, slots, options
        self._state: dict[
            str, tuple[Array, ...]
        ] = {}  # made in the first step, where the parameters then are
        self.steps = 0
        _ = self.learning_rate  # which checks it

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        lr = float(self._lr(self.steps) if callable(self._lr) else self._lr)
        if not 0 <= lr < math.inf:
            raise ValueError(f"{self._name}: the learning rate of step {self.steps} is {lr}")
        return lr

    def step(self, grads: Mapping[str, Array]) -> None:
        """Change every parameter by one step.

        Parameters
        ----------
        grads : mapping of str to array
            A gradient for each parameter, of its shape: what `value_and_grad` or `backward` returns.

        Raises
        ------
        ValueError
            If a gradient is missing or has another shape; then no parameter was changed.
        TypeError
            If one is on another device than its parameter.
        """
        checked = {name: self._gradient(grads, name, p) for name, p in self.trained.items()}
        options = {**self._options, "lr": self.learning_rate, "step": self.steps + 1}
        rows = [
            (p.data, checked[name], *(self._state.get(name) or (wide_zeros(p.data) for _ in self._slots)))
            for name, p in self.trained.items()
        ]
        new = rules.run_all(self._rule, rows, **options)
        for (name, p), (data, *state) in zip(self.trained.items(), new, strict=True):
            p.data, self._state[name] = data, tuple(state)
        self.steps += 1

    def state_dict(self) -> dict[str, Array]:
        """Copies of the state's arrays, as {"m.conv.weight": array}; empty before the first step.

        Together with `steps` they are all that a run needs to go on, bit for bit.
        """
        return {
            f"{slot}.{name}": copied(x)
            for name, state in self._state.items()
            for slot, x in zip(self._slots, state, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Array], *, steps: int) -> None:
        """Take up a saved state, of arrays of any library.

        Parameters
        ----------
        state : mapping of str to array
            From `state_dict`.
        steps : int
            How many steps had been taken.

        Raises
        ------
        ValueError
            If names or shapes are not those of this optimizer's parameters; then nothing was loaded.
        """
        like = {f"{slot}.{name}": p.data for name, p in self.trained.items() for slot in self._slots}
        arrays = loaded(self._name, state, like if steps else {})
        self._state = {
            name: tuple(arrays[f"{slot}.{name}"] for slot in self._slots) for name in self.trained if steps
        }
        self.steps = steps

    def _gradient(self, grads: Mapping[str, Array], name: str, p: Parameter) -> Array:
        where = f"{self._name}.step: the gradient of {name!r}"
        try:
            g = grads[name]
        except KeyError:
            raise ValueError(
                f"{where} is missing; differentiate with respect to the parameters that the optimizer has: "
                "value_and_grad(fn, module), or backward() after record(module)"
            ) from None
        if tuple(g.shape) != p.shape:
            raise ValueError(f"{where} has shape {tuple(g.shape)}, the parameter {p.shape}")
        ours, theirs = backend_of(p.data), backend_of(g)
        if ours is not theirs:
            raise TypeError(f"{where} is on {theirs.device!r}, the parameter on {ours.device!r}")
        return g
