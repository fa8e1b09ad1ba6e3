"""What the parties of `benchmarks.gpu` compute, how much of it there is, and minidiff as one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from benchmarks.gpu_device import Device
from benchmarks.gpu_timing import rotating
from benchmarks.interleave import Work
from benchmarks.parties import LEARNING_RATE, op_calls
from minidiff import Generator, Parameter, backward, ops, record, stop_gradient, value_and_grad
from minidiff.autodiff import op
from minidiff.backend import Array, Backend, register_backend
from minidiff.diffusion import DDIM, sample
from minidiff.models import UNet
from minidiff.ops.support import find_dtype
from minidiff.optim import Adam
from minidiff.testing import Case, Input
from minidiff.testing.arrays import is_floating, lay

__all__ = [
    "Hosts",
    "Ours",
    "Party",
    "arriving",
    "call",
    "drawn",
    "flops",
    "images",
    "laid",
    "layout_of",
    "least_bytes",
    "network",
    "sent_back",
    "unet_cases",
]

Hosts = Sequence[Any]  # the inputs of a case, with NumPy arrays


class Party(Protocol):
    """One that computes, given arrays of NumPy; it returns arrays of its own."""

    def to_host(self, array: Any) -> Any:
        """As NumPy's, float32."""

    def op(self, case: Case, hosts: Hosts, dtype: str, sets: int) -> tuple[Work, Work]:
        """What an op computes from so many copies of its inputs in turns, and the gradients of all its arrays."""

    def adam(self, parameters: Hosts, gradients: Hosts) -> Work:
        """A step of Adam: the new parameters."""

    def forward(self, x: Array, timesteps: Array, dtype: str) -> Work:
        """The U-Net's output."""

    def ddim(self, noise: Array, steps: int, dtype: str) -> Work:
        """Images from noise."""

    def training_step(self, x: Array, timesteps: Array, noise: Array, dtype: str) -> Work:
        """Forward, mean squared error, backward, Adam: the loss and the gradients by name."""


@op
def sent_back(xp: Any, y: Any, /, *, dy: Array) -> Any:
    """A scalar whose gradient with respect to y is dy, at no cost."""
    return xp.zeros((), dtype=y.dtype), lambda _: (dy,)


def call(case: Case, inputs: Sequence[Any], function: Callable[..., Any] | None = None) -> Any:
    """The op of a case, or its counterpart elsewhere, with these inputs and the case's options."""
    function = function or getattr(ops, case.op)
    return function(*([list(inputs)] if case.sequence else inputs), **case.options)


def drawn(case: Case, rng: np.random.Generator) -> list[Any]:
    """The inputs of a case with numbers that no run before had."""
    return [
        rng.standard_normal(x.shape, np.float32)
        if isinstance(x, Input) and x.kind == "normal"
        else x.make(rng)
        if isinstance(x, Input)
        else x
        for x in case.inputs
    ]


@lru_cache(maxsize=2)
def arriving(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A gradient, the same for all parties."""
    return np.random.default_rng(2).standard_normal(shape, np.float32)


def layout_of(case: Case, number: int) -> str:
    """How our kernels find an input in memory when a network calls them: images channels-last, filters as they are."""
    is_filter = case.op.startswith("conv_") or (case.op == "conv2d" and number == 1)
    return "contiguous" if is_filter or "attention" in case.op else "channels last"


def laid(
    backend: Backend, case: Case, hosts: Hosts, dtype: str, layout: Callable[[Case, int], str] = layout_of
) -> list[Any]:
    """The inputs on the device; floating ones in `dtype`."""
    return [
        lay(backend, x, dtype, layout(case, i)) if isinstance(x, np.ndarray) else x
        for i, x in enumerate(hosts)
    ]


def network(backend: Backend, channels: int) -> UNet:
    """UNet(3, channels, 3), the same on every device.

    In 50 steps of DDIM an untrained network multiplies rounding errors by some thousands; with a tenth of the weights
    in the last convolution, by ten, and results of parties can be compared.
    """
    model = UNet(3, channels, 3, rng=Generator(0, backend))
    model.final_conv.weight.data = model.final_conv.weight.data * 0.1
    return model


def unet_cases(backend: Backend, channels: int, batch: int, side: int) -> list[tuple[Case, int]]:
    """The calls of kernels in a forward of UNet(3, channels, 3), each with how often it is made."""
    model = network(backend, channels)
    x, t, _ = images(batch, side)
    found: dict[str, tuple[Case, int]] = {}
    for made in op_calls(lambda: model(backend.from_numpy(x), backend.from_numpy(t))):
        if made.name in backend.kernels and all(is_floating(backend, a) for a in made.arrays):
            sequence = isinstance(made.inputs[0], list)
            given = tuple(map(_input, made.inputs[0] if sequence else made.inputs))
            case = Case(made.name, given, made.options, sequence=sequence)
            found[str(case)] = case, found.get(str(case), (case, 0))[1] + 1
    return list(found.values())


def _input(x: Any) -> Any:
    x = stop_gradient(x)
    return Input("normal", tuple(x.shape)) if hasattr(x, "shape") else x


def images(batch: int, side: int) -> tuple[Array, Array, Array]:
    """Images, timesteps and noise."""
    x, noise = np.random.default_rng(1).standard_normal((2, batch, 3, side, side), np.float32)
    return x, np.linspace(0, 999, batch).astype(np.int64), noise


def flops(case: Case, result: tuple[int, ...], *, gradient: bool = False) -> float:
    """Multiplications and additions of products: twice as many for gradients, 2.5 times for those of attention."""
    shapes = [x.shape for x in case.inputs if isinstance(x, Input)]
    if case.op in ("conv2d", "linear"):
        return (4 if gradient else 2) * math.prod(result) * math.prod(shapes[1][1:])
    if case.op == "scaled_dot_product_attention":
        q, k, v = shapes[:3]
        return (5 if gradient else 2) * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    return 0


def least_bytes(case: Case, result: tuple[int, ...], itemsize: int, *, gradient: bool = False) -> int:
    """Of memory that must be read or written: inputs and result; for gradients, inputs twice and result."""
    read = sum(math.prod(x.shape) for x in case.inputs if isinstance(x, Input))
    return itemsize * ((2 if gradient else 1) * read + math.prod(result))


class Ours:
    """minidiff on a device, by default without captured steps."""

    def __init__(self, device: Device, channels: int, *, captured: bool = False) -> None:
        self.backend, self._channels = device.backend, channels
        self._capture = device.backend.compile if captured else _as_it_is
        self._manner = nullcontext if captured else partial(_eagerly, device.backend)

    def to_host(self, array: Any) -> Any:
        """See `Party`."""
        xp = self.backend.xp
        return self.backend.to_numpy(xp.astype(array, xp.float32))

    def op(self, case: Case, hosts: Hosts, dtype: str, sets: int) -> tuple[Work, Work]:
        """See `Party`."""
        first = laid(self.backend, case, hosts, dtype)
        copies = rotating([tuple(map(self._copy, first)) for _ in range(sets)])
        dy: list[Array] = []

        def forward(*inputs: Any) -> Any:
            return call(case, inputs)

        def recorded() -> tuple[Any, list[Parameter]]:
            inputs = [self._parameter(x) for x in copies()]
            with record():
                y = call(case, inputs)
                if not dy:
                    layout = layout_of(case, 0)
                    dy.append(lay(self.backend, arriving(tuple(y.shape)), dtype, layout))
                end = sent_back(y, dy=dy[0])
            return end, [x for x in inputs if isinstance(x, Parameter)]

        def gradients(end: Any, parameters: list[Parameter]) -> list[Array]:
            found = backward(end)
            return [found.wrt(p) for p in parameters]

        return Work(forward, copies), Work(gradients, recorded)

    def adam(self, parameters: Hosts, gradients: Hosts) -> Work:
        """See `Party`."""
        own = {str(i): Parameter(self._on_device(p)) for i, p in enumerate(parameters)}
        grads = {str(i): self._on_device(g) for i, g in enumerate(gradients)}
        optimizer = Adam(own, lr=LEARNING_RATE)

        def run() -> list[Array]:
            optimizer.step(grads)
            return [p.data for p in own.values()]

        return Work(run)

    def forward(self, x: Array, timesteps: Array, dtype: str) -> Work:
        """See `Party`."""
        model, t = self._model(), self._on_device(timesteps)
        run = self._capture(lambda x: model(x, t))
        given = self._on_device(x, dtype)
        return Work(lambda: run(given))

    def ddim(self, noise: Array, steps: int, dtype: str) -> Work:
        """See `Party`."""
        model, initial = self._model(), self._on_device(noise, dtype)

        def run() -> Array:
            rng = Generator(0, self.backend)
            with self._manner():
                return sample(model, noise.shape, DDIM(), steps=steps, rng=rng, initial=initial)

        return Work(run)

    def training_step(self, x: Array, timesteps: Array, noise: Array, dtype: str) -> Work:
        """See `Party`."""
        model, t = self._model(), self._on_device(timesteps)
        parameters, optimizer = model.parameters(), Adam(model, lr=LEARNING_RATE)

        def hold(weights: dict[str, Array]) -> None:
            for name, p in parameters.items():
                p.data = weights[name]

        def compute(weights: dict[str, Array], x: Array, target: Array) -> tuple[Array, dict[str, Array]]:
            hold(weights)  # arrays of its own, where it is captured
            loss, grads = value_and_grad(lambda: ops.mse_loss(model(x, t), target), model)()
            return loss, dict(grads)

        captured = self._capture(compute)
        given = self._on_device(x, dtype), self._on_device(noise, dtype)

        def run() -> tuple[Array, dict[str, Array]]:
            weights = {name: p.data for name, p in parameters.items()}
            loss, grads = captured(weights, *given)
            hold(weights)
            optimizer.step(grads)
            return loss, grads

        return Work(run)

    def _model(self) -> UNet:
        return network(self.backend, self._channels)

    def _on_device(self, host: Any, dtype: str | None = None) -> Array:
        x, xp = self.backend.from_numpy(host), self.backend.xp
        return x if dtype is None else xp.astype(x, find_dtype(xp, dtype))

    def _copy(self, x: Any) -> Any:
        return x.copy(order="K") if hasattr(x, "copy") else x

    def _parameter(self, x: Any) -> Any:
        return Parameter(x) if is_floating(self.backend, x) else x


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@contextmanager
def _eagerly(backend: Backend) -> Iterator[None]:
    """Nobody captures a step inside, in the whole process."""
    register_backend(replace(backend, compile=_as_it_is))
    try:
        yield
    finally:
        register_backend(backend)
