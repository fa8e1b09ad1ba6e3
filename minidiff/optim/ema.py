"""A running average of the parameters, which draws better images than the parameters themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from minidiff.autodiff import Parameters
from minidiff.backend import Array, backend_of
from minidiff.optim import rules
from minidiff.optim.states import copied, loaded, named_parameters, wide_copy

__all__ = ["EMA"]


class EMA:
    """Exponential moving average of parameters [1]_, float32 or wider.

    Parameters
    ----------
    parameters : Module or mapping of str to Parameter
        Their present values are where the average begins.
    decay : float
        How much of the average an update keeps, from 0 to less than 1.
    warmup : bool
        Keep min(decay, (1 + t) / (10 + t)) in update t = 0, 1, ..., so that the average soon forgets where it
        began.

    Attributes
    ----------
    averaged : dict of str to array
        The averages by parameter name. An update may write to them: `state_dict` makes copies.
    steps : int
        How many updates there were.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239, appendix B
       (decay 0.9999).
    """

    def __init__(self, parameters: Parameters, decay: float = 0.9999, *, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay must be from 0 to less than 1, got {decay}")
        self._parameters = named_parameters("EMA", parameters)
        self.decay, self.warmup, self.steps = decay, warmup, 0
        self.averaged = {name: wide_copy(p.data) for name, p in self._parameters.items()}

    def update(self) -> None:
        """Move the averages towards the parameters."""
        t = self.steps
        decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        rows = [(self.averaged[name], p.data) for name, p in self._parameters.items()]
        new = rules.run_all(rules.ema, rows, decay=decay)
        self.averaged = {name: average for name, (average,) in zip(self._parameters, new, strict=True)}
        self.steps += 1

    def state_dict(self) -> dict[str, Array]:
        """Copies of the averages by parameter name. Together with `steps` they are the whole state."""
        return {name: copied(x) for name, x in self.averaged.items()}

    def load_state_dict(self, state: Mapping[str, Array], *, steps: int) -> None:
        """Take up saved averages, of arrays of any library, after `steps` updates.

        Raises
        ------
        ValueError
            If names or shapes are not those of the parameters; then nothing was loaded.
        """
        self.averaged = loaded("EMA", state, {name: p.data for name, p in self._parameters.items()})
        self.steps = steps

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Parameters hold the averages inside, and afterwards, come what may, what they held before."""
        before = {name: p.data for name, p in self._parameters.items()}
        try:
            for name, p in self._parameters.items():
                p.data = backend_of(p.data).xp.astype(self.averaged[name], p.dtype, copy=True)
            yield
        finally:
            for name, p in self._parameters.items():
                p.data = before[name]
