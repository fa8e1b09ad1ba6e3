"""Optimizers against PyTorch's and against closed forms; learning rates, clipping, averages, resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minidiff import ops
from minidiff.autodiff import Parameter, backward, record, value_and_grad
from minidiff.backend import Backend, get_backend, register_backend
from minidiff.optim import EMA, SGD, Adam, AdamW, Optimizer, clip_gradients, lr, rules
from minidiff.testing.conformance import serving

Make = Callable[[Any], Optimizer]

SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "scale": (), "empty": (0, 2)}

MAKERS: dict[str, Make] = {
    "sgd": lambda p: SGD(p, 0.05),
    "sgd weight decay": lambda p: SGD(p, 0.05, weight_decay=0.1),
    "momentum": lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, 0.01, betas=(0.8, 0.95), eps=1e-6),
    "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.1),
}


def host_arrays(seed: int, dtype: str = "float32") -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def make_parameters(backend: Backend, dtype: str = "float32") -> dict[str, Parameter]:
    return {name: Parameter(backend.from_numpy(x)) for name, x in host_arrays(0, dtype).items()}


def gradients(backend: Backend, step: int, dtype: str = "float32") -> dict[str, Any]:
    return {name: backend.from_numpy(x) for name, x in host_arrays(100 + step, dtype).items()}


def values(backend: Backend, parameters: dict[str, Parameter]) -> dict[str, Any]:
    return {name: backend.to_numpy(p.data).copy() for name, p in parameters.items()}


def assert_equal(got: dict[str, Any], expected: dict[str, Any]) -> None:
    assert got.keys() == expected.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


# --- against PyTorch


def reference(name: str, torch: Any, p: Any) -> Any:
    return {
        "sgd": lambda: torch.optim.SGD(p, 0.05),
        "sgd weight decay": lambda: torch.optim.SGD(p, 0.05, weight_decay=0.1),
        "momentum": lambda: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
        "nesterov": lambda: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(p, 0.01, betas=(0.8, 0.95), eps=1e-6),
        "adamw": lambda: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    }[name]()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_twenty_steps_like_pytorch(backend: Backend, name: str, dtype: str, tolerance: float) -> None:
    torch = pytest.importorskip("torch")
    theirs = {key: torch.nn.Parameter(torch.tensor(x)) for key, x in host_arrays(0, dtype).items()}
    optimizer = reference(name, torch, list(theirs.values()))
    ours = make_parameters(backend, dtype)
    mine = MAKERS[name](ours)
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


# --- closed forms


def one(value: float, dtype: str = "float64") -> dict[str, Parameter]:
    return {"w": Parameter(np.asarray([value], dtype))}


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


@pytest.mark.parametrize("name", MAKERS)
def test_a_regression_is_solved(backend: Backend, name: str) -> None:
    """Gradients come from `value_and_grad`, or from `backward` as they are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    truth = np.asarray([[1.0], [-2.0], [0.5]], np.float32)
    inputs, outputs = backend.from_numpy(x), backend.from_numpy(x @ truth)
    w = {"w": Parameter(backend.from_numpy(np.zeros((3, 1), np.float32)))}
    optimizer = MAKERS[name](w)

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


# --- what is kept, and what is not touched


@pytest.mark.parametrize("name", MAKERS)
def test_resuming_is_bit_exact(backend: Backend, name: str) -> None:
    """Through copies on the host and JSON, in an optimizer of another schedule position."""
    through = make_parameters(backend)
    optimizer = MAKERS[name](through)
    for step in range(7):
        optimizer.step(gradients(backend, step))
    state = {key: backend.to_numpy(x).copy() for key, x in optimizer.state_dict().items()}
    saved = values(backend, through)
    meta = json.loads(json.dumps({"steps": optimizer.steps}))
    for step in range(7, 12):
        optimizer.step(gradients(backend, step))

    again = {key: Parameter(backend.from_numpy(x)) for key, x in saved.items()}
    resumed = MAKERS[name](again)
    resumed.load_state_dict(state, **meta)
    before = {key: x.copy() for key, x in state.items()}
    for step in range(7, 12):
        resumed.step(gradients(backend, step))
    assert_equal(values(backend, again), values(backend, through))
    assert resumed.steps == optimizer.steps == 12
    assert_equal(state, before)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_state_names_and_types(backend: Backend, name: str) -> None:
    parameters = make_parameters(backend)
    optimizer = MAKERS[name](parameters)
    assert optimizer.state_dict() == {}
    optimizer.step(gradients(backend, 0))
    state = optimizer.state_dict()
    assert set(state) == {f"{slot}.{key}" for slot in "mv" for key in SHAPES}
    for key, x in state.items():
        assert isinstance(x, backend.array_type)
        assert str(x.dtype).endswith("float32")
        assert tuple(x.shape) == parameters[key[2:]].shape
    fresh = MAKERS[name](make_parameters(backend))
    fresh.load_state_dict({}, steps=0)
    assert fresh.steps == 0


def test_a_state_of_another_model(backend: Backend) -> None:
    optimizer = MAKERS["adam"](make_parameters(backend))
    optimizer.step(gradients(backend, 0))
    state = optimizer.state_dict()
    other = Adam({"w": Parameter(backend.from_numpy(np.zeros(3, np.float32)))})
    with pytest.raises(ValueError, match=r"Adam: the saved state lacks m\.w, v\.w.*m\.conv\.bias.*5 more"):
        other.load_state_dict(state, steps=1)
    wrong = {**state, "v.conv.bias": backend.from_numpy(np.zeros(5, np.float32))}
    with pytest.raises(ValueError, match=r"the saved 'v.conv.bias' has shape \(5,\), expected \(4,\)"):
        optimizer.load_state_dict(wrong, steps=9)
    assert optimizer.steps == 1
    assert_equal(
        {k: backend.to_numpy(x) for k, x in optimizer.state_dict().items()},
        {k: backend.to_numpy(x) for k, x in state.items()},
    )


@pytest.mark.parametrize("name", MAKERS)
def test_old_arrays_keep_their_numbers(backend: Backend, name: str) -> None:
    """Parameters, gradients and state dicts that somebody holds are never written to."""
    parameters = make_parameters(backend)
    optimizer = MAKERS[name](parameters)
    optimizer.step(gradients(backend, 0))
    held = {"state": optimizer.state_dict(), "grads": gradients(backend, 1)}
    held["data"] = {key: p.data for key, p in parameters.items()}
    copies = {k: {key: backend.to_numpy(x).copy() for key, x in h.items()} for k, h in held.items()}
    optimizer.step(held["grads"])
    optimizer.step(held["grads"])
    for k, h in held.items():
        assert_equal({key: backend.to_numpy(x) for key, x in h.items()}, copies[k])
    assert not np.array_equal(values(backend, parameters)["conv.bias"], copies["data"]["conv.bias"])
    assert all(isinstance(p.data, backend.array_type) for p in parameters.values())


@pytest.mark.parametrize("name", MAKERS)
def test_half_precision_parameters_have_float32_states(backend: Backend, name: str) -> None:
    if not hasattr(backend.xp, "float16"):
        pytest.skip("the standard has no float16")
    xp = backend.xp
    half = {k: Parameter(xp.astype(p.data, xp.float16)) for k, p in make_parameters(backend).items()}
    full = {k: Parameter(xp.astype(p.data, xp.float32)) for k, p in half.items()}
    a, b = MAKERS[name](half), MAKERS[name](full)
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
    register_backend(replace(backend, kernels={"adam": adam}))
    try:
        Adam(fused, 0.01).step(gradients(backend, 0))
    finally:
        register_backend(backend)
    assert len(calls) == len(SHAPES)
    assert calls[0] == {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "step": 1}
    np.testing.assert_array_equal(
        backend.to_numpy(fused["conv.bias"].data), host_arrays(0)["conv.bias"] - np.float32(0.01)
    )
    assert float(fused["scale"].data) == float(plain["scale"].data)


def test_states_are_copies_from_a_kernel_that_writes_in_place() -> None:
    def adam(xp: Any, p: Any, g: Any, m: Any, v: Any, **options: Any) -> Any:
        m += g
        v += 1
        return p - m, m, v

    cpu = get_backend("cpu")
    w, g = one(0.0), {"w": np.asarray([1.0])}
    register_backend(replace(cpu, kernels={"adam": adam}))
    try:
        optimizer, resumed = Adam(w), Adam(one(0.0))
        optimizer.step(g)
        state = optimizer.state_dict()
        optimizer.step(g)
        resumed.load_state_dict(state, steps=1)
        resumed.step(g)
    finally:
        register_backend(cpu)
    assert {k: x.tolist() for k, x in state.items()} == {"m.w": [1.0], "v.w": [1.0]}
    assert {k: x.tolist() for k, x in optimizer.state_dict().items()} == {"m.w": [2.0], "v.w": [2.0]}
    assert g["w"].tolist() == [1.0]


# --- errors


@pytest.mark.parametrize("name", MAKERS)
def test_bad_gradients_change_nothing(backend: Backend, name: str) -> None:
    parameters = make_parameters(backend)
    optimizer = MAKERS[name](parameters)
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
    ("error", "message", "make"),
    [
        (
            ValueError,
            "SGD: momentum must be from 0 to less than 1, got 1.0",
            lambda w: SGD(w, 0.1, momentum=1.0),
        ),
        (ValueError, "nesterov=True needs a momentum", lambda w: SGD(w, 0.1, nesterov=True)),
        (ValueError, "SGD: weight_decay must be at least 0, got -1", lambda w: SGD(w, 0.1, weight_decay=-1)),
        (
            ValueError,
            "Adam: beta2 must be from 0 to less than 1, got 1.0",
            lambda w: Adam(w, betas=(0.9, 1.0)),
        ),
        (
            ValueError,
            "AdamW: weight_decay must be at least 0, got nan",
            lambda w: AdamW(w, weight_decay=math.nan),
        ),
        (ValueError, "Adam: eps must be at least 0, got -1", lambda w: Adam(w, eps=-1)),
        (ValueError, "the learning rate of step 0 is -0.1", lambda w: Adam(w, -0.1)),
        (ValueError, "the learning rate of step 0 is inf", lambda w: Adam(w, lambda step: math.inf)),
        (ValueError, "EMA: decay must be from 0 to less than 1, got 1", lambda w: EMA(w, 1)),
        (
            TypeError,
            "expected a module or a mapping of names to Parameters, got list",
            lambda w: Adam([w["w"]]),
        ),
        (TypeError, "'w' is a ndarray, not a Parameter", lambda w: EMA({"w": w["w"].data})),
        (ValueError, "SGD: there are no parameters", lambda _: SGD({}, 0.1)),
    ],
)
def test_bad_options(error: type[Exception], message: str, make: Any) -> None:
    with pytest.raises(error, match=message):
        make(one(1.0))


# --- learning rates


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


# --- clipping


@pytest.mark.parametrize("max_norm", [0.5, 1e6, math.inf])
def test_clipping_like_pytorch(backend: Backend, max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    p = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    for x, g in zip(p, host_arrays(100).values(), strict=True):
        x.grad = torch.tensor(g)
    norm = torch.nn.utils.clip_grad_norm_(p, max_norm)
    grads = gradients(backend, 0)
    clipped, ours = clip_gradients(grads, max_norm)
    assert type(ours) is float
    assert ours == pytest.approx(norm.item(), rel=1e-6)
    assert list(clipped) == list(SHAPES)
    for x, (name, g) in zip(p, clipped.items(), strict=True):
        assert isinstance(g, backend.array_type)
        np.testing.assert_allclose(backend.to_numpy(g), x.grad.numpy(), rtol=1e-5, err_msg=name)
    assert_equal({k: backend.to_numpy(g) for k, g in grads.items()}, host_arrays(100))


def test_clipping_of_three_four_five(backend: Backend) -> None:
    grads = {"a": backend.from_numpy(np.asarray([3.0])), "b": backend.from_numpy(np.asarray([[4.0]]))}
    clipped, norm = clip_gradients(grads, 1.0)
    assert norm == 5.0
    assert float(clipped["a"][0]) == pytest.approx(0.6, rel=1e-15)
    assert float(clipped["b"][0, 0]) == pytest.approx(0.8, rel=1e-15)
    same, norm = clip_gradients(grads, 5.0)
    assert norm == 5.0
    assert same["a"] is grads["a"]
    assert clip_gradients({}, 1.0) == ({}, 0.0)


def test_the_norm_may_come_from_a_kernel() -> None:
    """Which gets all gradients at once, and may decline."""
    cpu, seen = get_backend("cpu"), []

    def square_sum(xp: Any, *arrays: Any) -> Any:
        seen.append(len(arrays))
        return NotImplemented if arrays[0].size == 1 else (np.asarray(25.0),)

    grads = {"a": np.ones(2), "b": np.ones((3, 1))}
    with serving(cpu, {"square_sum": square_sum}):
        assert clip_gradients(grads, 9.0) == (grads, 5.0)
        assert clip_gradients({"a": np.full(1, -2.0)}, 9.0)[1] == 2.0
    assert seen == [2, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_passed_on(backend: Backend, bad: float) -> None:
    grads = {"a": backend.from_numpy(np.asarray([1.0, bad])), "b": backend.from_numpy(np.asarray([2.0]))}
    clipped, norm = clip_gradients(grads, 1.0)
    assert not math.isfinite(norm)
    assert clipped["b"] is grads["b"]


def test_clipping_half_precision_does_not_overflow() -> None:
    """300^2 is more than float16 holds."""
    clipped, norm = clip_gradients({"a": np.full(4, 300, np.float16)}, 1.0)
    assert norm == pytest.approx(600.0)
    assert clipped["a"].dtype == np.float16
    np.testing.assert_allclose(clipped["a"], 0.5, rtol=1e-3)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_bad_max_norm(max_norm: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm must be above 0, got {max_norm}"):
        clip_gradients({}, max_norm)


# --- averages


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
    optimizer = MAKERS["adam"](parameters)
    optimizer.step(gradients(backend, 0))
    ema.update()
    held, before = {k: p.data for k, p in parameters.items()}, values(backend, parameters)
    averaged = {k: backend.to_numpy(x) for k, x in ema.averaged.items()}
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
    state = {k: backend.to_numpy(x).copy() for k, x in ema.state_dict().items()}
    saved, steps = values(backend, through), ema.steps
    walk(through, ema, range(5, 9))
    again = {k: Parameter(backend.from_numpy(x)) for k, x in saved.items()}
    resumed = EMA(again)
    resumed.load_state_dict(state, steps=steps)
    walk(again, resumed, range(5, 9))
    assert_equal(
        {k: backend.to_numpy(x) for k, x in resumed.averaged.items()},
        {k: backend.to_numpy(x) for k, x in ema.averaged.items()},
    )
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


@pytest.mark.parametrize("name", MAKERS)
def test_every_library_trains_the_same_bits(backend: Backend, name: str) -> None:
    """But for the square roots of PyTorch's CPU library, which are not all correctly rounded."""
    ends = []
    for b in (backend, get_backend("cpu")):
        parameters = make_parameters(b)
        optimizer = MAKERS[name](parameters)
        for step in range(20):
            optimizer.step(gradients(b, step))
        ends.append(values(b, parameters))
    if backend.device == "torch" and "adam" in name:
        for key in SHAPES:
            np.testing.assert_allclose(ends[0][key], ends[1][key], rtol=1e-5, atol=1e-7)
    else:
        assert_equal(*ends)


def test_the_rules_have_their_kernels_names() -> None:
    for name in ("sgd", "momentum", "adam", "ema", "square_sum"):
        assert getattr(rules, name).__name__ == name
