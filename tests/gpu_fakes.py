"""What tests of the GPU's benchmark share: a small plan, and a device that says each call took the same time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks.gpu_bench import Bench, Plan
from benchmarks.gpu_timing import Budget
from minidiff.backend import Backend

TINY = Plan(
    channels=4,
    side=4,
    batches=(1, 2),
    batch=2,
    step_batch=2,
    dtypes=("float32",),
    convolutions=((1, 8, 4, 8, 3),),
    attentions=((1, 2, 8, 8),),
    normalizations=((1, 32, 4),),
    ddim=2,
    check_steps=2,
    square=8,
    copied_bytes=1 << 10,
    rounds=3,
    least=1e-3,
    seconds=500.0,
)
SECONDS = 2.0**-10  # of whatever a device is asked to do


class FakeDevice:
    """Does what it is told, and says that each call took the same time."""

    torch_device, cache_bytes = "cpu", 1 << 12

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.holds: list[float] = []

    def describe(self) -> dict[str, Any]:
        return {"gpu": "Fake 1"}

    def one_stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def elapsed(self, run: Callable[[], object], hold: float = 0.0) -> float:
        self.holds.append(hold)
        run()
        return SECONDS

    def free_bytes(self) -> int:
        return 1 << 30

    def release(self) -> None:
        pass

    def peak_bytes(self, run: Callable[[], object]) -> int:
        tracemalloc.start()
        kept = run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del kept
        return peak

    def library_product(self, a: Any, b: Any) -> Any:
        return a @ b


def bench_on(backend: Backend, plan: Plan = TINY, *, torch: Any = None) -> Bench:
    return Bench(FakeDevice(backend), plan, Budget(plan.seconds), seed=1, torch=torch)
