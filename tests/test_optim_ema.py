"""Averages of parameters: the closed form, swapped in, and resumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff.autodiff import Parameter
from minidiff.backend import Backend, get_backend
from minidiff.optim import EMA
from minidiff.testing.conformance import serving
from tests.optimizer_cases import assert_equal, gradients, make, make_parameters, on_host, one, values


def test_ema_is_the_closed_form(backend: Backend) -> None:
    """From x_0 towards a constant c: c + (x_0 - c) times the product of the decays."""
    w = {"w": Parameter(backend.from_numpy(np.asarray([1.0, 2.0])))}
    constant, warm = EMA(w, 0.9, warmup=False), EMA(w, 0.9)
    w["w"].data = backend.from_numpy(np.asarray([3.0, -4.0]))
    product = 1.0
    for t in range(200):
        product *= min(0.9, (1 + t) / (10 + t))
        constant.update()
        warm.update()
        for ema, kept in ((constant, 0.9 ** (t + 1)), (warm, product)):
            expected = np.asarray([3.0, -4.0]) + kept * np.asarray([-2.0, 6.0])
            np.testing.assert_allclose(backend.to_numpy(ema.averaged["w"]), expected, rtol=1e-9)
    assert warm.steps == 200


def test_ema_swapped_in(backend: Backend) -> None:
    parameters = make_parameters(backend)
    ema = EMA(parameters, 0.5, warmup=False)
    optimizer = make("adam", parameters)
    optimizer.step(gradients(backend, 0))
    ema.update()
    held, before = {k: p.data for k, p in parameters.items()}, values(backend, parameters)
    averaged = on_host(backend, ema.averaged)
    with ema.swapped_in():
        assert_equal(values(backend, parameters), averaged)
        assert not np.array_equal(averaged["conv.bias"], before["conv.bias"])
    assert all(p.data is held[k] for k, p in parameters.items())
    with pytest.raises(KeyboardInterrupt), ema.swapped_in():
        raise KeyboardInterrupt
    assert_equal(values(backend, parameters), before)


def test_what_was_swapped_in_keeps_its_numbers() -> None:
    """Although a kernel writes the averages in place."""

    def ema(xp: Any, average: Any, p: Any, **options: Any) -> Any:
        average += 1
        return (average,)

    cpu = get_backend("cpu")
    w = one(0.0)
    averages = EMA(w)
    with averages.swapped_in():
        held = w["w"].data
    with serving(cpu, {"ema": ema}):
        averages.update()
    assert averages.averaged["w"].tolist() == [1.0]
    assert held.tolist() == [0.0]


def test_ema_resumes_bit_exactly(backend: Backend) -> None:
    def walk(parameters: dict[str, Parameter], ema: EMA, steps: range) -> None:
        for step in steps:
            for k, g in gradients(backend, step).items():
                parameters[k].data = backend.xp.asarray(parameters[k].data + g)
            ema.update()

    through = make_parameters(backend)
    ema = EMA(through)
    walk(through, ema, range(5))
    state = on_host(backend, ema.state_dict())
    saved, steps = values(backend, through), ema.steps
    walk(through, ema, range(5, 9))
    again = {k: Parameter(backend.from_numpy(x)) for k, x in saved.items()}
    resumed = EMA(again)
    resumed.load_state_dict(state, steps=steps)
    walk(again, resumed, range(5, 9))
    assert_equal(on_host(backend, resumed.averaged), on_host(backend, ema.averaged))
    with pytest.raises(ValueError, match=r"EMA: the saved state lacks scale and has, unexpectedly, nothing"):
        resumed.load_state_dict({k: x for k, x in state.items() if k != "scale"}, steps=1)


def test_ema_of_half_precision_is_kept_in_float32() -> None:
    """An update by 1e-4 of the way would be lost in float16."""
    w = {"w": Parameter(np.ones(1, np.float16))}
    ema = EMA(w, 0.9999, warmup=False)
    w["w"].data = np.full(1, 2, np.float16)
    for _ in range(100):
        ema.update()
    assert ema.averaged["w"].dtype == np.float32
    assert float(ema.averaged["w"][0]) == pytest.approx(2 - 0.9999**100, rel=1e-5)
    with ema.swapped_in():
        assert w["w"].dtype == np.float16


def test_bad_decay() -> None:
    with pytest.raises(ValueError, match="EMA: decay must be from 0 to less than 1, got 1"):
        EMA(one(1.0), 1)
