"""Bugs planted in the part of a training step that is captured."""

from __future__ import annotations

TESTS = ["tests/test_cupy_loops.py"]

FILE = "minidiff/loss_and_gradients.py"

MUTANTS = [
    (FILE, '"counter": state["counter"] + self._blocks', '"counter": state["counter"]'),
    (FILE, "            p.data = weights[name]", "            pass"),
    (FILE, "            p.data = before[name]", "            p.data = p.data"),
    (FILE, "self.asked[draw] = None", "self.asked.setdefault((*draw, len(self.asked)))"),
    (FILE, "found = self._drawn.get(draw)", "found = next(iter(self._drawn.values()), None)"),
    (
        FILE,
        "draw = (name, counter - self._first, amount, *options)",
        "draw = (name, counter, amount, *options)",
    ),
    (FILE, "rule(name, self._first + blocks, *options)", "rule(name, blocks, *options)"),
    (FILE, "ahead = _Ahead(self._rng, drawn)", "ahead = _Ahead(self._rng)"),
    (
        FILE,
        "self._draws, self._blocks = tuple(ahead.asked), ahead.blocks",
        "self._draws = tuple(ahead.asked)",
    ),
]
