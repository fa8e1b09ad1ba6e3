"""What a network is trained for, read off the sampler it is drawn with."""

from __future__ import annotations

from typing import TypeAlias

from minidiff.diffusion import (
    EDM,
    DiscreteSampler,
    EDMEuler,
    FlowMatchEuler,
    FlowMatchHeun,
    FlowMatching,
    GaussianDiffusion,
    Sampler,
    VariationalBound,
)

__all__ = ["Objective", "training_objective"]

Objective: TypeAlias = GaussianDiffusion | VariationalBound | EDM | FlowMatching
LEARNED = ("learned", "learned_range")


def training_objective(
    sampler: Sampler, *, null_probability: float = 0.0, min_snr_gamma: float | None = None
) -> Objective:
    """The objective that fits a sampler: `objective.loss(model, images, rng, labels=...)`.

    EDM for samplers of EDM, flow matching for those of flow matching, the hybrid loss where the variance is learned,
    and otherwise the squared error of what the network predicts.

    Parameters
    ----------
    sampler : Sampler
    null_probability : float
        How often training hides a label, which guidance needs.
    min_snr_gamma : float, optional
        Weigh timesteps by min-SNR; for the squared error only.

    Raises
    ------
    ValueError
        If no objective fits.
    """
    weighted = min_snr_gamma is not None
    if isinstance(sampler, EDMEuler) and sampler.prediction_type == "epsilon" and not weighted:
        return EDM(sigma_data=sampler.sigma_data, null_probability=null_probability)
    flow_shift = _flow_shift(sampler)
    if flow_shift is not None and not weighted:
        return FlowMatching(
            num_train_timesteps=sampler.num_train_timesteps,
            shift=flow_shift,
            null_probability=null_probability,
        )
    told_timesteps = (
        getattr(sampler, "timestep_type", "discrete") == "discrete"
    )  # and not logarithms of noise levels
    if isinstance(sampler, DiscreteSampler) and flow_shift is None and told_timesteps:
        if getattr(sampler, "variance_type", None) not in LEARNED:
            return GaussianDiffusion(
                sampler.schedule,
                sampler.prediction_type,
                null_probability=null_probability,
                min_snr_gamma=min_snr_gamma,
                stratified=True,
            )
        if sampler.variance_type == "learned_range" and not weighted:  # type: ignore[attr-defined]
            return VariationalBound(
                sampler.schedule, sampler.prediction_type, null_probability=null_probability
            )
    raise ValueError(f"no training objective for {sampler!r}" + (" with min-SNR weights" if weighted else ""))


def _flow_shift(sampler: Sampler) -> float | None:
    """How far a sampler of flow matching moves its times towards noise; None for other samplers."""
    if isinstance(sampler, FlowMatchEuler | FlowMatchHeun):
        return None if getattr(sampler, "invert_sigmas", False) else sampler.shift
    return sampler.flow_shift if getattr(sampler, "use_flow_sigmas", False) else None  # type: ignore[attr-defined]
