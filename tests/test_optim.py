"""Optimizers against PyTorch's and against closed forms, on every library; and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.autodiff import Parameter, backward, record, value_and_grad
from minidiff.backend import Backend, get_backend
from minidiff.optim import EMA, SGD, Adam, AdamW
from minidiff.testing.conformance import serving, without_kernels
from tests.optimizer_cases import (
    OPTIMIZERS,
    SHAPES,
    assert_equal,
    gradients,
    host_arrays,
    make,
    make_parameters,
    on_host,
    one,
    values,
)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_twenty_steps_like_pytorch(backend: Backend, name: str, dtype: str, tolerance: float) -> None:
    torch = pytest.importorskip("torch")
    theirs = {key: torch.nn.Parameter(torch.tensor(x)) for key, x in host_arrays(0, dtype).items()}
    optimizer = make(name, list(theirs.values()), torch.optim)
    ours = make_parameters(backend, dtype)
    mine = make(name, ours)
    for step in range(20):
        for key, g in host_arrays(100 + step, dtype).items():
            theirs[key].grad = torch.tensor(g)
        optimizer.step()
        mine.step(gradients(backend, step, dtype))
    for key, x in values(backend, ours).items():
        assert x.dtype == dtype
        np.testing.assert_allclose(
            x, theirs[key].detach().numpy(), rtol=tolerance, atol=tolerance, err_msg=key
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_library_trains_the_same_bits(backend: Backend, name: str) -> None:
    """Those of the generic rules, but for the square roots of PyTorch's CPU library: not all are correctly rounded."""

    def trained(backend: Backend) -> dict[str, Any]:
        parameters = make_parameters(backend)
        optimizer = make(name, parameters)
        for step in range(20):
            optimizer.step(gradients(backend, step))
        return values(backend, parameters)

    cpu, got = get_backend("cpu"), trained(backend)
    with without_kernels(cpu):
        expected = trained(cpu)
    if backend.device == "torch" and "adam" in name:
        for key in SHAPES:
            np.testing.assert_allclose(got[key], expected[key], rtol=1e-5, atol=1e-7)
    else:
        assert_equal(got, expected)


# --- closed forms


def test_momentum_of_a_constant_gradient_is_a_geometric_sum() -> None:
    w = one(0.0)
    optimizer = SGD(w, 0.1, momentum=0.9)
    for _ in range(30):
        optimizer.step({"w": np.asarray([1.0])})
    moved = sum(sum(0.9**i for i in range(k)) for k in range(1, 31))
    assert w["w"].data[0] == pytest.approx(-0.1 * moved, rel=1e-12)


def test_sgd_on_a_parabola() -> None:
    """x_k = (1 - lr)^k x_0 for the gradient x."""
    w = one(3.0)
    optimizer = SGD(w, 0.1)
    for _ in range(50):
        optimizer.step({"w": w["w"].data})
    assert w["w"].data[0] == pytest.approx(3 * 0.9**50, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_adam_moves_by_its_learning_rate_whatever_the_scale(scale: float) -> None:
    """Of a constant gradient m_hat / sqrt(v_hat) is 1 in every step (bias correction, section 3)."""
    w = one(0.0)
    optimizer = Adam(w, 0.01, eps=0.0)
    for k in range(1, 11):
        optimizer.step({"w": np.asarray([-scale])})
        assert w["w"].data[0] == pytest.approx(0.01 * k, rel=1e-9)


def test_adamw_decays_what_has_no_gradient() -> None:
    w = one(2.0)
    optimizer = AdamW(w, 0.1, weight_decay=0.5)
    for _ in range(10):
        optimizer.step({"w": np.asarray([0.0])})
    assert w["w"].data[0] == pytest.approx(2 * (1 - 0.1 * 0.5) ** 10, rel=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_regression_is_solved(backend: Backend, name: str) -> None:
    """Gradients come from `value_and_grad`, or from `backward` as they are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    truth = np.asarray([[1.0], [-2.0], [0.5]], np.float32)
    inputs, outputs = backend.from_numpy(x), backend.from_numpy(x @ truth)
    w = {"w": Parameter(backend.from_numpy(np.zeros((3, 1), np.float32)))}
    optimizer = make(name, w)

    def loss() -> Any:
        return ops.mse_loss(ops.matmul(inputs, w["w"]), outputs)

    first = float(loss())
    for k in range(400):
        if k % 2:
            with record(w):
                recorded = loss()
            optimizer.step(backward(recorded))
        else:
            optimizer.step(value_and_grad(loss, w)()[1])
    assert optimizer.steps == 400
    assert float(loss()) < 0.02 * first


# --- what comes in, and what is not touched


def test_modules_are_taken_as_they_are(backend: Backend) -> None:
    class Module:
        def __init__(self) -> None:
            self.weight = Parameter(backend.from_numpy(np.zeros(2, np.float32)))

        def parameters(self) -> dict[str, Parameter]:
            return {"weight": self.weight}

    module = Module()
    optimizer, ema = SGD(module, 1.0), EMA(module, 0.5, warmup=False)
    optimizer.step({"weight": backend.from_numpy(np.ones(2, np.float32))})
    ema.update()
    np.testing.assert_array_equal(backend.to_numpy(module.weight.data), [-1, -1])
    np.testing.assert_array_equal(backend.to_numpy(ema.averaged["weight"]), [-0.5, -0.5])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_arrays_keep_their_numbers(backend: Backend, name: str) -> None:
    """Parameters, gradients and state dicts that somebody holds are never written to."""
    parameters = make_parameters(backend)
    optimizer = make(name, parameters)
    optimizer.step(gradients(backend, 0))
    held = {"state": optimizer.state_dict(), "grads": gradients(backend, 1)}
    held["data"] = {key: p.data for key, p in parameters.items()}
    copies = {k: on_host(backend, h) for k, h in held.items()}
    optimizer.step(held["grads"])
    optimizer.step(held["grads"])
    for k, h in held.items():
        assert_equal(on_host(backend, h), copies[k])
    assert not np.array_equal(values(backend, parameters)["conv.bias"], copies["data"]["conv.bias"])
    assert all(isinstance(p.data, backend.array_type) for p in parameters.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_precision_parameters_have_float32_states(backend: Backend, name: str) -> None:
    if not hasattr(backend.xp, "float16"):
        pytest.skip("the standard has no float16")
    xp = backend.xp
    half = {k: Parameter(xp.astype(p.data, xp.float16)) for k, p in make_parameters(backend).items()}
    full = {k: Parameter(xp.astype(p.data, xp.float32)) for k, p in half.items()}
    a, b = make(name, half), make(name, full)
    g = {k: xp.astype(x, xp.float16) for k, x in gradients(backend, 0).items()}
    a.step(g)
    b.step({k: xp.astype(x, xp.float32) for k, x in g.items()})
    for k, p in half.items():
        assert p.dtype == xp.float16
        np.testing.assert_array_equal(
            backend.to_numpy(p.data), backend.to_numpy(xp.astype(full[k].data, xp.float16))
        )
    assert all(x.dtype == xp.float32 for x in a.state_dict().values())


def test_a_backend_may_bring_a_kernel(backend: Backend) -> None:
    """It is found by name, may write moments in place, and may decline."""
    calls = []

    def adam(xp: Any, p: Any, g: Any, m: Any, v: Any, **options: Any) -> Any:
        calls.append(options)
        return NotImplemented if p.shape == () else (p - options["lr"], m, v)

    plain, fused = make_parameters(backend), make_parameters(backend)
    Adam(plain, 0.01).step(gradients(backend, 0))
    with serving(backend, {"adam": adam}):
        Adam(fused, 0.01).step(gradients(backend, 0))
    assert len(calls) == len(SHAPES)
    assert calls[0] == {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "step": 1}
    np.testing.assert_array_equal(
        backend.to_numpy(fused["conv.bias"].data), host_arrays(0)["conv.bias"] - np.float32(0.01)
    )
    assert float(fused["scale"].data) == float(plain["scale"].data)


# --- errors


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bad_gradients_change_nothing(backend: Backend, name: str) -> None:
    parameters = make_parameters(backend)
    optimizer = make(name, parameters)
    before = values(backend, parameters)
    grads = gradients(backend, 0)
    with pytest.raises(ValueError, match=r"the gradient of 'scale' is missing; .*value_and_grad"):
        optimizer.step({k: g for k, g in grads.items() if k != "scale"})
    with pytest.raises(ValueError, match=r"gradient of 'empty' has shape \(4,\), the parameter \(0, 2\)"):
        optimizer.step({**grads, "empty": grads["conv.bias"]})
    if backend.device != "cpu":
        with pytest.raises(TypeError, match=rf"'conv.bias' is on 'cpu', the parameter on '{backend.device}'"):
            optimizer.step({**grads, "conv.bias": host_arrays(100)["conv.bias"]})
    assert_equal(values(backend, parameters), before)
    assert optimizer.steps == 0
    assert optimizer.state_dict() == {}


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("SGD: momentum must be from 0 to less than 1, got 1.0", lambda w: SGD(w, 0.1, momentum=1.0)),
        ("nesterov=True needs a momentum", lambda w: SGD(w, 0.1, nesterov=True)),
        ("SGD: weight_decay must be at least 0, got -1", lambda w: SGD(w, 0.1, weight_decay=-1)),
        ("Adam: beta2 must be from 0 to less than 1, got 1.0", lambda w: Adam(w, betas=(0.9, 1.0))),
        ("AdamW: weight_decay must be at least 0, got nan", lambda w: AdamW(w, weight_decay=math.nan)),
        ("Adam: eps must be at least 0, got -1", lambda w: Adam(w, eps=-1)),
        ("the learning rate of step 0 is -0.1", lambda w: Adam(w, -0.1)),
        ("the learning rate of step 0 is inf", lambda w: Adam(w, lambda step: math.inf)),
        ("SGD: there are no parameters", lambda _: SGD({}, 0.1)),
    ],
)
def test_bad_options(message: str, make: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make(one(1.0))


def test_what_is_no_parameter() -> None:
    w = one(1.0)["w"]
    with pytest.raises(TypeError, match="expected a module or a mapping of names to Parameters, got list"):
        Adam([w])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="EMA: 'w' is a ndarray, not a Parameter"):
        EMA({"w": w.data})
