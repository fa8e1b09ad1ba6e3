"""How much memory a training step takes: what the tape says before it runs, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from benchmarks.gpu_bench import OURS, Bench
from benchmarks.gpu_networks import NETWORKS
from benchmarks.gpu_parties import images, network
from benchmarks.interleave import Work
from minidiff import Tensor, ops, record
from minidiff.autodiff.tensor import Node
from minidiff.backend import Array, Backend

__all__ = ["measure_memory", "remembered", "tape_bytes"]

STEPS = 3  # of training, while memory is watched


def measure_memory(bench: Bench) -> dict[str, Any]:
    """The most memory that training steps take: what adds up, and what was measured."""
    plan, device = bench.plan, bench.device
    batch = plan.step_batch
    data = images(batch, plan.side)
    bench.say(f"\nmemory of a training step, batch {batch}, {plan.side}x{plan.side}, float32, MB")
    figures: dict[str, Any] = {"batch": batch}

    def train(name: str) -> Work:
        work = bench.parties(name)[name].training_step(*data, "float32")
        for _ in range(STEPS):
            work.run()
        return work

    parts = bench.attempt("predicted memory", partial(_predicted, bench))
    if parts is not None:
        figures["predicted MB"] = {name: round(n / 1e6, 1) for name, n in parts.items()}
        total = sum(parts.values())
        figures["predicted MB"]["sum"] = round(total / 1e6, 1)
        summands = " + ".join(f"{name} {n / 1e6:.0f}" for name, n in parts.items())
        bench.say(f"  predicted: {summands} = {total / 1e6:.0f}")
    figures["measured MB"] = {}
    for name in NETWORKS if bench.torch else NETWORKS[:2]:
        run = partial(device.peak_bytes, partial(train, name))
        peak = bench.attempt(f"memory, {name}", run)
        if peak is not None:
            figures["measured MB"][name] = round(peak / 1e6, 1)
            ratio = f", {peak / sum(parts.values()):.2f} of the prediction" if parts and name == OURS else ""
            bench.say(f"  measured, {name}: {peak / 1e6:.0f} taken from the device{ratio}")
    return figures


def _predicted(bench: Bench) -> dict[str, int]:
    """Bytes of parameters, gradients, Adam's moments, and of what backpropagation remembers of the batch."""
    plan, backend = bench.plan, bench.device.backend
    parameters = 4 * network(backend, plan.channels).num_parameters()
    one, two = (tape_bytes(backend, plan.channels, plan.side, batch) for batch in (1, 2))
    return {
        "parameters": parameters,
        "gradients": parameters,
        "moments": 2 * parameters,
        "tape": one + (plan.step_batch - 1) * (two - one),
    }


def tape_bytes(backend: Backend, channels: int, side: int, batch: int) -> int:
    """What backpropagation remembers of the U-Net's mean squared error, without the parameters themselves."""
    model = network(backend, channels)
    x, t, noise = (backend.from_numpy(host) for host in images(batch, side))
    with record(model):
        loss = ops.mse_loss(model(x, t), noise)
    parameters = (p.data for p in model.parameters().values())
    sizes = {where: size for a in remembered(loss, backend.array_type) for where, size in _memory(a)}
    own = {where for a in parameters for where, _ in _memory(a)}
    return sum(size for where, size in sizes.items() if where not in own)


def remembered(loss: Tensor, array_type: type) -> Iterator[Array]:
    """The arrays that the pullbacks of a tape hold on to; some may be views of the same memory."""
    seen: set[int] = set()
    waiting: list[Any] = [loss.node]
    while waiting:
        x = waiting.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, array_type):
            yield x
        else:
            waiting += _inside(x)


def _inside(x: Any) -> list[Any]:
    """What a part of a pullback refers to, as far as arrays can be there."""
    if isinstance(x, Node):
        return [x.pull]
    if isinstance(x, partial):
        return [x.func, *x.args, *x.keywords.values()]
    if isinstance(x, FunctionType):
        return [*(cell.cell_contents for cell in x.__closure__ or ()), *(x.__defaults__ or ())]
    if isinstance(x, tuple | list | dict):
        return list(x.values() if isinstance(x, dict) else x)
    ours = type(x).__module__.startswith("minidiff")
    return list(vars(x).values()) if ours and hasattr(x, "__dict__") else []


def _memory(x: Array) -> Iterator[tuple[int, int]]:
    """Address and size of the memory that `x` keeps alive: its owner's, if it is a view."""
    if hasattr(x.data, "mem"):  # of CuPy
        yield x.data.mem.ptr, x.data.mem.size
        return
    while isinstance(x.base, np.ndarray):
        x = x.base
    yield x.__array_interface__["data"][0], x.nbytes
