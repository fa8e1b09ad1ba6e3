"""What linear multistep solvers have in common: they combine the predictions of the last steps."""

from __future__ import annotations

from collections.abc import Sequence

from minidiff.backend import Array
from minidiff.diffusion.points import Point
from minidiff.diffusion.samplers.exponential import Formulation
from minidiff.diffusion.samplers.sampler import Draw, Sampler, Step, mix

__all__ = ["Multistep", "solved"]

FEW_STEPS = 15


def solved(
    f: Formulation, s: Point, t: Point, x: Array, values: Sequence[Array], counts: Sequence[float], draw: Draw
) -> Array:
    """x_t, from x at s, predictions, and what each of them counts; an SDE draws noise."""
    spread = f.spread(s, t) if f.spread else 0.0
    noise = [(spread, draw())] if spread else []
    return mix((f.scale(s, t), x), *zip(counts, values, strict=True), *noise)


class Multistep(Sampler):
    """A step from the predictions at the last `solver_order` points, as many as there are."""

    _formulation: Formulation
    solver_order: int
    lower_order_final: bool
    final_sigmas_type: str
    euler_at_final = False

    def _predicted(self, f: Formulation, y: Array, x: Array, point: Point) -> tuple[Array, Array]:
        """What the solver integrates, and the predicted clean image."""
        raise NotImplementedError

    def _counts(self, s: Point, t: Point, points: Sequence[Point]) -> list[float]:
        """What predictions at points count, of which s is the first and the latest."""
        raise NotImplementedError

    def _advance(self, i: int, y: Array, x: Array, draw: Draw) -> Step:
        s, t = self.points[i : i + 2]
        m, x0 = self._predicted(self._formulation, y, x, s)
        self.history = [(s, m), *self.history[: self.solver_order - 1]]
        points, values = zip(*self.history[: self._order(i)], strict=True)
        return Step(solved(self._formulation, s, t, x, values, self._counts(s, t, points), draw), x0)

    def _order(self, i: int) -> int:
        """Of the step from point i, where the history is long enough: lower at the end."""
        left, few = len(self.timesteps) - i, self.lower_order_final and len(self.timesteps) < FEW_STEPS
        if left == 1 and (self.euler_at_final or self.final_sigmas_type == "zero"):
            return 1
        return min(left, self.solver_order) if few else self.solver_order
