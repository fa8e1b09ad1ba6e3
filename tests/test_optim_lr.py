"""Learning rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff.autodiff import Parameter
from minidiff.backend import Backend
from minidiff.optim import SGD, lr


def test_learning_rates() -> None:
    assert [lr.constant(0.1)(k) for k in (0, 9)] == [0.1, 0.1]
    assert [lr.warmup(1.0, 4)(k) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert lr.warmup(1.0, 0)(0) == 1.0
    down = lr.cosine(2.0, 10, 1.0)
    assert [down(0), down(5), down(10), down(99)] == pytest.approx([2.0, 1.5, 1.0, 1.0], abs=1e-15)
    both = lr.warmup_cosine(1.0, 4, 14, 0.5)
    assert [both(k) for k in (0, 3, 4, 9, 14, 99)] == pytest.approx(
        [0.25, 1.0, 1.0, 0.75, 0.5, 0.5], abs=1e-15
    )
    assert lr.warmup_cosine(1.0, 0, 10)(0) == 1.0


def test_cosine_like_pytorch() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.01)
    ours = lr.cosine(0.3, 20, 0.01)
    for k in range(20):
        assert ours(k) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("warmup: steps must be at least 0, got -1", lambda: lr.warmup(1.0, -1)),
        ("cosine: total must be at least 1, got 0", lambda: lr.cosine(1.0, 0)),
        ("10 warm-up steps do not fit into 10 steps", lambda: lr.warmup_cosine(1.0, 10, 10)),
        ("warmup: steps must be at least 0, got -2", lambda: lr.warmup_cosine(1.0, -2, 10)),
    ],
)
def test_bad_learning_rates(message: str, make: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_optimizer_follows_its_learning_rate(backend: Backend) -> None:
    w = {"w": Parameter(backend.from_numpy(np.zeros(1, np.float64)))}
    optimizer = SGD(w, lambda step: 10.0**-step)
    seen = []
    for _ in range(3):
        seen.append(optimizer.learning_rate)
        optimizer.step({"w": backend.from_numpy(np.ones(1))})
    assert seen == [1.0, 0.1, 0.01]
    assert float(w["w"].data[0]) == pytest.approx(-1.11, rel=1e-12)
    optimizer.load_state_dict({}, steps=1)
    assert optimizer.learning_rate == 0.1
