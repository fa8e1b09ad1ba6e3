"""What a party of the comparison can do, and minidiff as one; PyTorch's are in `benchmarks.torch_networks`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

import minidiff_numpy
from benchmarks.interleave import Work
from minidiff import Generator, Parameter, backward, ops, record, stop_gradient, value_and_grad
from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.diffusion import DDIM, sample
from minidiff.models import UNet
from minidiff.optim import Adam

__all__ = ["LEARNING_RATE", "Call", "Minidiff", "Party", "arriving_gradient", "op_calls", "with_arrays"]

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Call:
    """A call of `minidiff.ops.<name>(*inputs, **options)`."""

    name: str
    inputs: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def arrays(self) -> list[Array]:
        """The arrays among the inputs, as they were in memory."""
        found: list[Array] = []
        with_arrays(self.inputs, found.append)
        return [stop_gradient(x) for x in found]

    def __str__(self) -> str:
        """Shapes, without those of biases, and options that are not the default."""
        shapes = ["x".join(map(str, x.shape)) for x in self.arrays]
        parameters = inspect.signature(getattr(ops, self.name)).parameters
        options = [
            f"{key} {value}" for key, value in self.options.items() if value != parameters[key].default
        ]
        return ", ".join([*(s for s in shapes if "x" in s), *options])


class Party(Protocol):
    """One that computes; arrays are NumPy's, in C order, and are brought into the party's form before a call."""

    def use_threads(self, threads: int) -> None:
        """Compute on so many threads from now on."""

    def forward(self, x: Array, timesteps: Array) -> Work:
        """The U-Net's output."""

    def training_step(self, x: Array, timesteps: Array, noise: Array) -> Work:
        """Forward, mean squared error, backward, Adam: the loss and the gradients by name."""

    def ddim(self, noise: Array, steps: int) -> Work:
        """Images from noise."""

    def op(self, call: Call) -> tuple[Work, Work]:
        """What an op computes, and the gradients of all its arrays."""


class Minidiff:
    """minidiff on the CPU."""

    def __init__(self, model: UNet) -> None:
        self.model = model

    def use_threads(self, threads: int) -> None:
        """See `Party`."""
        minidiff_numpy.set_num_threads(threads)
        threadpool_limits(threads, user_api="blas")  # for what minidiff leaves to BLAS's own threads

    def forward(self, x: Array, timesteps: Array) -> Work:
        """See `Party`."""
        return Work(lambda: self.model(x, timesteps))

    def training_step(self, x: Array, timesteps: Array, noise: Array) -> Work:
        """See `Party`."""
        optimizer = Adam(self.model, lr=LEARNING_RATE)
        step = value_and_grad(lambda: ops.mse_loss(self.model(x, timesteps), noise), self.model)

        def run() -> tuple[Array, dict[str, Array]]:
            loss, grads = step()
            optimizer.step(grads)
            return loss, grads

        return Work(run)

    def ddim(self, noise: Array, steps: int) -> Work:
        """See `Party`."""
        return Work(
            lambda: sample(self.model, noise.shape, DDIM(), steps=steps, rng=Generator(0), initial=noise)
        )

    def op(self, call: Call) -> tuple[Work, Work]:
        """See `Party`."""
        function = getattr(ops, call.name)

        def forward() -> Array:
            return function(*call.inputs, **call.options)

        y = forward()
        dy = np.empty_like(y)  # in memory like y
        dy[...] = arriving_gradient(y.shape)

        def recorded() -> tuple[Any, list[Parameter]]:
            parameters: list[Parameter] = []

            def parameter(x: Any) -> Parameter:  # a copy, as in training, where weights are new in every step
                parameters.append(Parameter(np.copy(stop_gradient(x), order="K")))
                return parameters[-1]

            with record():
                return _sent_back(
                    function(*with_arrays(call.inputs, parameter), **call.options), dy=dy
                ), parameters

        def gradients(end: Any, parameters: list[Parameter]) -> list[Array]:
            found = backward(end)
            return [found.wrt(p) for p in parameters]

        return Work(forward), Work(gradients, recorded)


@op
def _sent_back(xp: Any, y: Any, /, *, dy: Array) -> Any:
    """A scalar whose gradient with respect to y is dy, at no cost."""
    return xp.zeros((), dtype=y.dtype), lambda _: (dy,)


def arriving_gradient(shape: tuple[int, ...]) -> Array:
    """The same for all parties."""
    return Generator(2).normal(shape)


def with_arrays(inputs: Any, function: Callable[[Any], Any]) -> Any:
    """The inputs of an op with every array, also those in a sequence, replaced by `function(array)`."""
    if isinstance(inputs, tuple | list):
        return type(inputs)(with_arrays(x, function) for x in inputs)
    return function(inputs) if hasattr(inputs, "dtype") else inputs


def op_calls(run: Callable[[], object]) -> list[Call]:
    """The calls that `run()` makes to functions of `minidiff.ops`, in their order."""
    calls: list[Call] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **options: Any) -> Any:
            calls.append(Call(name, inputs, options))
            return function(*inputs, **options)

        return call

    functions = {name: f for name, f in vars(ops).items() if hasattr(f, "rule")}
    try:
        for name, function in functions.items():
            setattr(ops, name, watched(name, function))
        run()
    finally:
        for name, function in functions.items():
            setattr(ops, name, function)
    return calls
