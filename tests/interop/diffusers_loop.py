"""The loop of `tests.scheduler_loop` with a scheduler of diffusers, in float32 as it comes or in float64."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging

from tests.interop.scheduler_cases import Case
from tests.scheduler_loop import SHAPE, Image, Noise, kind, walk

torch.set_num_threads(1)
logging.set_verbosity_error()


@contextmanager
def quietly() -> Iterator[None]:
    """Without diffusers' warnings: of deprecated options, and of NumPy's about how it uses NumPy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def find(name: str) -> Any:
    """Diffusers' class."""
    if name == "DPMSolverSDE":  # its noise comes from torchsde, which is not asked: `run` hands it in
        sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
        return import_module("diffusers.schedulers.scheduling_dpmsolver_sde").DPMSolverSDEScheduler
    return getattr(import_module("diffusers"), f"{name}Scheduler")


def make(case: Case) -> Any:
    """Diffusers' scheduler, its timesteps set."""
    with quietly():
        scheduler = find(case.name)(**case.options)
        scheduler.set_timesteps(case.steps, **case.timesteps)
    if case.options.get("algorithm_type") == "sde-dpmsolver++" and case.options.get("solver_order") == 3:
        _correct_third_order(scheduler, case)
    return scheduler


def _correct_third_order(scheduler: Any, case: Case) -> None:
    """Diffusers subtracts 1/2 where the integral has + 1/2, so that its last term does not vanish with the step."""
    single = case.name == "DPMSolverSinglestep"
    if single and case.options["solver_type"] == "midpoint":  # does not have that term
        return
    name = f"{'singlestep' if single else 'multistep'}_dpm_solver_third_order_update"
    third_order = getattr(scheduler, name)

    def corrected(outputs: Any, **arrays: Any) -> Any:
        i = scheduler.step_index
        alphas, sigmas = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[i - 2 : i + 2].flip(0))
        t, s0, s1, s2 = (torch.log(alphas) - torch.log(sigmas)).unbind()
        m0, m1, m2 = outputs[-1], outputs[-2], outputs[-3]
        slope_0, slope_1 = (m0 - m1) / (s0 - s1), (m1 - m2) / (s1 - s2)
        step = t - s2 if single else t - s0
        bend = step**2 * (slope_0 - slope_1) / (s0 - s2)
        return third_order(outputs, **arrays) + alphas[0] * bend * (2 if single else 1)

    setattr(scheduler, name, corrected)


def run(case: Case, *, double: bool = False, scheduler: Any = None) -> tuple[list[float], list[Image]]:
    """The timesteps of the case's scheduler, or of another, and the image after each step."""
    noise = Noise()
    dtype = np.float64 if double else np.float32

    def draw(*args: Any, **kwargs: Any) -> Any:
        return torch.from_numpy(noise.draw().astype(dtype))

    with quietly(), _patched(sys.modules[find(case.name).__module__], draw, double):
        if scheduler is None:
            scheduler = make(case)
        else:
            scheduler.set_timesteps(case.steps, **case.timesteps)
        brownian = _Brownian(draw)

        def step(output: Any, t: Any, x: Any, present: Noise) -> Any:
            nonlocal noise
            noise = present
            if case.name == "DPMSolverSDE":
                scheduler.noise_sampler = brownian
            return scheduler.step(output, t, x, **case.step).prev_sample

        arrays = {"to_numpy": torch.Tensor.numpy, "from_numpy": torch.from_numpy}
        walked = list(walk(scheduler, kind(case.name, case.options), step, dtype=dtype, **arrays))
    return [t for t, _ in walked], [x for _, x in walked]


class _Brownian:
    """A Brownian motion over sigma from one fresh noise a call: what torchsde would give, up to who draws."""

    def __init__(self, draw: Any) -> None:
        self._draw, self._from, self._to = draw, 0.0, 0.0
        self._walked = torch.zeros(SHAPE)

    def __call__(self, start: Any, end: Any) -> Any:
        if float(start) != self._from:
            self._from, self._to, self._walked = float(start), float(start), torch.zeros(SHAPE)
        self._walked = self._walked + (self._to - float(end)) ** 0.5 * self._draw()
        self._to = float(end)
        return self._walked / (self._from - self._to) ** 0.5


@contextmanager
def _patched(module: Any, draw: Any, double: bool) -> Iterator[None]:
    """A module of diffusers that draws by `draw` and, for double, takes float64 for float32."""
    replaced: dict[str, Any] = {"randn_tensor": draw}
    if double:
        replaced |= {"torch": _With(torch, float32=torch.float64), "np": _With(np, float32=np.float64)}
    before = {name: getattr(module, name, None) for name in replaced}
    vars(module).update(replaced)
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        yield
    finally:
        vars(module).update(before)
        torch.set_default_dtype(torch.float32)


class _With:
    """A module, but for some names."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
