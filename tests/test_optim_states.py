"""States of optimizers: what they are called, and that a run goes on from them bit for bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from minidiff.autodiff import Parameter
from minidiff.backend import Backend, get_backend
from minidiff.optim import Adam
from minidiff.testing.conformance import serving
from tests.optimizer_cases import (
    OPTIMIZERS,
    SHAPES,
    assert_equal,
    gradients,
    make,
    make_parameters,
    on_host,
    one,
    values,
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_is_bit_exact(backend: Backend, name: str) -> None:
    """Through copies on the host and JSON, in an optimizer of another schedule position."""
    through = make_parameters(backend)
    optimizer = make(name, through)
    for step in range(7):
        optimizer.step(gradients(backend, step))
    state = on_host(backend, optimizer.state_dict())
    saved = values(backend, through)
    meta = json.loads(json.dumps({"steps": optimizer.steps}))
    for step in range(7, 12):
        optimizer.step(gradients(backend, step))

    again = {key: Parameter(backend.from_numpy(x)) for key, x in saved.items()}
    resumed = make(name, again)
    resumed.load_state_dict(state, **meta)
    before = {key: x.copy() for key, x in state.items()}
    for step in range(7, 12):
        resumed.step(gradients(backend, step))
    assert_equal(values(backend, again), values(backend, through))
    assert resumed.steps == optimizer.steps == 12
    assert_equal(state, before)


@pytest.mark.parametrize(("name", "slots"), [("adam", "mv"), ("adamw", "mv"), ("momentum", "b"), ("sgd", "")])
def test_state_names_and_types(backend: Backend, name: str, slots: str) -> None:
    parameters = make_parameters(backend)
    optimizer = make(name, parameters)
    assert optimizer.state_dict() == {}
    optimizer.step(gradients(backend, 0))
    state = optimizer.state_dict()
    assert set(state) == {f"{slot}.{key}" for slot in slots for key in SHAPES}
    for key, x in state.items():
        assert isinstance(x, backend.array_type)
        assert str(x.dtype).endswith("float32")
        assert tuple(x.shape) == parameters[key[2:]].shape
    fresh = make(name, make_parameters(backend))
    fresh.load_state_dict({}, steps=0)
    assert fresh.steps == 0


def test_a_state_of_another_model(backend: Backend) -> None:
    optimizer = make("adam", make_parameters(backend))
    optimizer.step(gradients(backend, 0))
    state = optimizer.state_dict()
    other = Adam({"w": Parameter(backend.from_numpy(np.zeros(3, np.float32)))})
    with pytest.raises(ValueError, match=r"Adam: the saved state lacks m\.w, v\.w.*m\.conv\.bias.*5 more"):
        other.load_state_dict(state, steps=1)
    wrong = {**state, "v.conv.bias": backend.from_numpy(np.zeros(5, np.float32))}
    with pytest.raises(ValueError, match=r"the saved 'v.conv.bias' has shape \(5,\), expected \(4,\)"):
        optimizer.load_state_dict(wrong, steps=9)
    assert optimizer.steps == 1
    assert_equal(on_host(backend, optimizer.state_dict()), on_host(backend, state))


def test_states_are_copies_from_a_kernel_that_writes_in_place() -> None:
    def adam(xp: Any, p: Any, g: Any, m: Any, v: Any, **options: Any) -> Any:
        m += g
        v += 1
        return p - m, m, v

    optimizer, resumed, g = Adam(one(0.0)), Adam(one(0.0)), {"w": np.asarray([1.0])}
    with serving(get_backend("cpu"), {"adam": adam}):
        optimizer.step(g)
        state = optimizer.state_dict()
        optimizer.step(g)
        resumed.load_state_dict(state, steps=1)
        resumed.step(g)
    assert {k: x.tolist() for k, x in state.items()} == {"m.w": [1.0], "v.w": [1.0]}
    assert {k: x.tolist() for k, x in optimizer.state_dict().items()} == {"m.w": [2.0], "v.w": [2.0]}
    assert g["w"].tolist() == [1.0]
