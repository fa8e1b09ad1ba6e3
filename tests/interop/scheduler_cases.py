"""Which samplers with which options are compared with diffusers: a table.

A case is a sampler, the options of its configuration, and what `set_timesteps` and `step` are given besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One comparison; `name` is diffusers' class without "Scheduler"."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 20
    timesteps: dict[str, Any] = field(default_factory=dict)  # keywords of set_timesteps
    step: dict[str, Any] = field(
        default_factory=dict
    )  # keywords of diffusers' step, options of minidiff's sampler

    def __str__(self) -> str:
        options = {**self.options, **self.timesteps, **self.step}
        words = [f"{key}={'...' if isinstance(v, list) else v}" for key, v in options.items()]
        return " ".join([self.name, *words, *([f"{self.steps} steps"] if self.steps != 20 else [])])

    @property
    def tolerance(self) -> float:
        """How far float32 may lead from minidiff's numbers."""
        return ROUNDING.get(str(self), 1e-4)


# Where the float32 of diffusers' coefficients costs more than 1e-4; in float64 it agrees here as elsewhere.
ROUNDING = {
    "EulerDiscrete beta_schedule=squaredcos_cap_v2": 5e-4,
    "HeunDiscrete beta_schedule=squaredcos_cap_v2": 1e-3,
    "DPMSolverMultistep use_lu_lambdas=True solver_order=3 beta_schedule=squaredcos_cap_v2": 3e-4,
    "UniPCMultistep solver_order=3 solver_type=bh1 predict_x0=False final_sigmas_type=sigma_min "
    "lower_order_final=False 10 steps": 6e-4,
    "UniPCMultistep solver_order=3 solver_type=bh2 predict_x0=False final_sigmas_type=sigma_min "
    "lower_order_final=False 10 steps": 6e-4,
    "DEISMultistep solver_order=3 use_beta_sigmas=True": 4e-3,
    "DEISMultistep solver_order=3 trained_betas=... num_train_timesteps=100": 5e-3,
    "DEISMultistep solver_order=3 beta_schedule=squaredcos_cap_v2": 5e-4,
}

TYPES = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # of Stable Diffusion
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
THRESHOLD = {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.6}
ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
BETAS = {"trained_betas": [0.001 * (1 + i) for i in range(100)], "num_train_timesteps": 100}

# --- what a sampler takes: prediction types, whether it has spacings, and the sets of options worth a case


def _grid(name: str, types: tuple[str, ...], spacings: tuple[str, ...], **always: Any) -> Iterator[Case]:
    for kind, spacing in product(types, spacings):
        yield Case(name, {"prediction_type": kind, "timestep_spacing": spacing, **always})


def _each(name: str, *options: dict[str, Any], **always: Any) -> Iterator[Case]:
    for chosen in options:
        yield Case(name, {**always, **chosen})


def _ddpm() -> Iterator[Case]:
    yield from _grid("DDPM", TYPES, SPACINGS)
    variances = ("fixed_small", "fixed_small_log", "fixed_large")  # fixed_large_log: a NaN in diffusers
    yield from _each("DDPM", *({"variance_type": v} for v in variances), clip_sample_range=0.7)
    yield from _each("DDPM", STABLE, COSINE, {"beta_schedule": "sigmoid"}, THRESHOLD, BETAS, ZERO_SNR)
    yield from _each("DDPM", {"steps_offset": 1}, {"clip_sample": False, **STABLE})


def _ddim() -> Iterator[Case]:
    yield from _grid("DDIM", TYPES, SPACINGS)
    yield from _each("DDIM", STABLE, COSINE, THRESHOLD, BETAS, ZERO_SNR, {"clip_sample": False, **STABLE})
    yield from _each("DDIM", {"set_alpha_to_one": False, "steps_offset": 1}, clip_sample=False)
    for step in ({"eta": 1.0}, {"eta": 0.5}, {"use_clipped_model_output": True}):
        yield Case("DDIM", {"timestep_spacing": "leading"}, step=step)
    yield from _grid("DDIMInverse", TYPES[::2], ("leading", "trailing"), clip_sample=False)


def _pndm() -> Iterator[Case]:
    yield from _grid("PNDM", ("epsilon", "v_prediction"), SPACINGS)
    yield from _each(
        "PNDM", {"skip_prk_steps": True}, {"set_alpha_to_one": True}, {"skip_prk_steps": True, **STABLE}
    )


def _karras() -> Iterator[Case]:
    for name in ("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete"):
        yield from _grid(name, TYPES if name == "HeunDiscrete" else TYPES[::2], SPACINGS)
    yield from _grid("KDPM2AncestralDiscrete", TYPES[::2], SPACINGS)
    yield from _grid("LMSDiscrete", TYPES, SPACINGS)
    for name in ("EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete"):
        yield from _each(name, *({flag: True} for flag in SIGMAS), **STABLE)
    yield from _each("EulerDiscrete", COSINE, BETAS, ZERO_SNR, {"interpolation_type": "log_linear"})
    yield from _each("EulerDiscrete", {"final_sigmas_type": "sigma_min"}, {"steps_offset": 1, **STABLE})
    yield Case("EulerDiscrete", STABLE, step={"s_churn": 8.0, "s_noise": 1.003})
    yield from _each("EulerAncestralDiscrete", COSINE, ZERO_SNR)
    yield from _each("HeunDiscrete", {"clip_sample": True}, COSINE)
    yield Case("LMSDiscrete", STABLE, step={"order": 2})


def _edm() -> Iterator[Case]:
    for name, kind in product(("EDMEuler", "EDMDPMSolverMultistep"), ("epsilon", "v_prediction")):
        yield Case(name, {"prediction_type": kind})
        yield Case(name, {"prediction_type": kind, "sigma_schedule": "exponential", "sigma_data": 1.0})
        yield Case(name, {"prediction_type": kind, "final_sigmas_type": "sigma_min", "rho": 5.0})
    yield Case("EDMEuler", {"sigma_max": 40.0}, step={"s_churn": 8.0, "s_noise": 1.003})
    options = ({"solver_order": n, "solver_type": s} for n, s in product((1, 2, 3), ("midpoint", "heun")))
    yield from _each("EDMDPMSolverMultistep", *options, THRESHOLD)
    yield from _each(
        "EDMDPMSolverMultistep", {"solver_order": 1}, {"solver_order": 2}, algorithm_type="sde-dpmsolver++"
    )


def _lcm() -> Iterator[Case]:
    for kind in TYPES:
        yield Case("LCM", {"prediction_type": kind}, steps=8)
    yield Case("LCM", {"clip_sample": True, "set_alpha_to_one": False}, steps=4)


ALGORITHMS: dict[str, dict[str, Any]] = {
    "dpmsolver": {"final_sigmas_type": "sigma_min"},
    "dpmsolver++": {},
    "sde-dpmsolver": {"final_sigmas_type": "sigma_min"},
    "sde-dpmsolver++": {},
}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def _multistep() -> Iterator[Case]:
    name = "DPMSolverMultistep"
    yield from _grid(name, TYPES, SPACINGS)
    for (algorithm, more), order, solver in product(ALGORITHMS.items(), (1, 2, 3), ("midpoint", "heun")):
        if (algorithm, order) != ("sde-dpmsolver", 3):  # diffusers has no third order of it
            options = {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver, **more}
            yield Case(name, {**options, **STABLE})
            if order > 1:
                yield Case(name, {**options, "lower_order_final": False}, steps=10)
                yield Case(name, options, steps=10)
    for algorithm, more in ALGORITHMS.items():
        yield from _each(
            name, *({"prediction_type": k} for k in TYPES), THRESHOLD, algorithm_type=algorithm, **more
        )
    sigmas = [*SIGMAS, "use_lu_lambdas"]
    yield from _each(
        name, *({flag: True, "final_sigmas_type": f} for flag in sigmas for f in ("zero", "sigma_min"))
    )
    yield Case(name, {"use_lu_lambdas": True, "solver_order": 3, **COSINE})
    yield from _each(
        name,
        COSINE,
        BETAS,
        ZERO_SNR,
        FLOW,
        {**FLOW, "solver_order": 3},
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
    )
    yield from _each(
        name,
        {"lambda_min_clipped": -5.1, **COSINE},
        {"steps_offset": 1, **STABLE},
        timestep_spacing="leading",
    )
    yield Case(name, {**FLOW, "use_dynamic_shifting": True}, timesteps={"mu": 0.7})


def _singlestep() -> Iterator[Case]:
    name = "DPMSolverSinglestep"
    for algorithm, order, solver in product(ALGORITHMS, (1, 2, 3), ("midpoint", "heun")):
        if algorithm != "sde-dpmsolver":
            options = {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
            for steps in (20, 21, 22) if order > 1 else (20,):
                yield Case(name, {**options, "lower_order_final": True, **ALGORITHMS[algorithm]}, steps=steps)
            yield Case(name, {**options, "final_sigmas_type": "sigma_min"}, steps=18)
    yield from _each(name, *({"prediction_type": k} for k in TYPES), *({flag: True} for flag in SIGMAS))
    yield from _each(name, COSINE, BETAS, FLOW, THRESHOLD, {"lambda_min_clipped": -5.1, **COSINE})
    yield from _each(
        name,
        *({"prediction_type": k} for k in TYPES),
        algorithm_type="dpmsolver",
        final_sigmas_type="sigma_min",
    )


def _unipc() -> Iterator[Case]:
    name = "UniPCMultistep"
    yield from _grid(name, TYPES, SPACINGS)
    for order, solver, x0 in product((1, 2, 3), ("bh1", "bh2"), (True, False)):
        options = {"solver_order": order, "solver_type": solver, "predict_x0": x0}
        zero = x0 and solver == "bh2"  # the others end in a NaN in diffusers when they end at sigma = 0
        yield Case(name, {**options, **({} if zero else {"final_sigmas_type": "sigma_min"}), **STABLE})
        yield Case(name, {**options, "final_sigmas_type": "sigma_min", "lower_order_final": False}, steps=10)
    yield from _each(
        name, *({"prediction_type": k} for k in TYPES), predict_x0=False, final_sigmas_type="sigma_min"
    )
    yield from _each(
        name, *({flag: True, "final_sigmas_type": f} for flag in SIGMAS for f in ("zero", "sigma_min"))
    )
    yield from _each(
        name, COSINE, BETAS, ZERO_SNR, FLOW, THRESHOLD, {"disable_corrector": [0, 1, 2, 7]}, solver_order=3
    )
    yield from _each(name, {**FLOW, "use_karras_sigmas": True}, {**FLOW, "shift_terminal": 0.1})
    yield Case(name, {**FLOW, "use_dynamic_shifting": True}, timesteps={"mu": 0.7})
    yield from _each(
        name, {"use_karras_sigmas": True, "sigma_min": 0.05}, FLOW, final_sigmas_type="sigma_min"
    )
    yield Case(name, {"steps_offset": 1, "timestep_spacing": "leading"})


def _deis() -> Iterator[Case]:
    name = "DEISMultistep"
    yield from _grid(name, TYPES, SPACINGS)
    for order in (1, 2, 3):
        yield Case(name, {"solver_order": order, **STABLE})
        yield Case(name, {"solver_order": order, "lower_order_final": False}, steps=10)
        yield Case(name, {"solver_order": order}, steps=10)
    yield from _each(name, *({flag: True} for flag in SIGMAS), COSINE, BETAS, FLOW, THRESHOLD, solver_order=3)
    yield Case(name, {"steps_offset": 1, "timestep_spacing": "leading"})


def _sde() -> Iterator[Case]:
    name = "DPMSolverSDE"
    yield from _grid(name, ("epsilon", "v_prediction"), SPACINGS)
    yield from _each(name, *({flag: True} for flag in SIGMAS), COSINE)
    yield Case(name, step={"s_noise": 0.9})


def _flow() -> Iterator[Case]:
    name = "FlowMatchEulerDiscrete"
    yield from _each(
        name, {}, {"shift": 3.0}, {"shift": 3.0, "stochastic_sampling": True}, {"shift_terminal": 0.1}
    )
    yield from _each(name, *({flag: True} for flag in SIGMAS), {"invert_sigmas": True}, shift=3.0)
    for kind in ("exponential", "linear"):
        yield Case(name, {"use_dynamic_shifting": True, "time_shift_type": kind}, timesteps={"mu": 0.7})
    yield from _each("FlowMatchHeunDiscrete", {}, {"shift": 3.0})


CASES = [
    case
    for cases in (
        _ddpm,
        _ddim,
        _pndm,
        _karras,
        _edm,
        _lcm,
        _multistep,
        _singlestep,
        _unipc,
        _deis,
        _sde,
        _flow,
    )
    for case in cases()
]
