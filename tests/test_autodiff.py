"""Recording, backward, freezing, checkpoints: what is wrapped, what adds up, what is freed, what is refused."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidiff
from minidiff import (
    Parameter,
    Tensor,
    backward,
    checkpoint,
    ops,
    record,
    stop_gradient,
    value_and_grad,
)
from minidiff.autodiff import op
from minidiff.backend import Backend
from minidiff.testing import check_gradient

RNG = np.random.default_rng(0)
A = RNG.uniform(0.5, 2.0, (3, 3))
B = RNG.uniform(0.5, 2.0, (3, 3))


def parameter(backend: Backend, host: Any) -> Parameter:
    return Parameter(backend.from_numpy(np.asarray(host, np.float64)))


# --- operators -------------------------------------------------------------------------------------------

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul]
COMPARISON = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_operators_of_two_tensors(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    p, q = parameter(backend, A), parameter(backend, B)
    with record():
        y = operation(p, q)
    assert isinstance(y, Tensor)
    np.testing.assert_allclose(backend.to_numpy(y.data), operation(A, B))
    check_gradient(operation, A, B, backend=backend)


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_an_array_on_the_right(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    constant = backend.from_numpy(B)
    check_gradient(lambda p: operation(p, constant), A, backend=backend)


@pytest.mark.parametrize("operation", ARITHMETIC)
def test_an_array_on_the_left(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    constant = backend.from_numpy(A)
    if backend.device == "strict":  # array-api-strict raises instead of yielding: use ops.add(array, tensor)
        with pytest.raises(TypeError):
            operation(constant, parameter(backend, B))
        return
    check_gradient(lambda p: operation(constant, p), B, backend=backend)


@pytest.mark.parametrize("operation", [o for o in ARITHMETIC if o is not operator.matmul])
def test_a_number_on_either_side(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    check_gradient(lambda p: operation(p, 1.5), A, backend=backend)
    check_gradient(lambda p: operation(1.5, p), A, backend=backend)
    check_gradient(lambda p: operation(p, np.float64(1.5)), A, backend=backend)


@pytest.mark.parametrize("operation", COMPARISON)
def test_comparisons_are_element_by_element(backend: Backend, operation: Callable[[Any, Any], Any]) -> None:
    p = parameter(backend, A)
    with record():
        results = [
            operation(p, backend.from_numpy(B)),
            operation(p, parameter(backend, B)),
            operation(p, 1.0),
        ]
    for result, other in zip(results, (B, B, 1.0), strict=True):
        assert isinstance(result, backend.array_type)
        np.testing.assert_array_equal(backend.to_numpy(result), operation(A, other))


def test_unary_operators_and_indexing(backend: Backend) -> None:
    check_gradient(lambda p: -p, A, backend=backend)
    check_gradient(lambda p: abs(p - 1.0), A, backend=backend)
    check_gradient(lambda p: p[0, 1:], A, backend=backend)
    check_gradient(lambda p: p.mT, A, backend=backend)
    check_gradient(lambda p: p[backend.from_numpy(A > 1)], A, backend=backend)


def test_a_tensor_describes_itself(backend: Backend) -> None:
    p = parameter(backend, A)
    assert repr(p) == f"Parameter(shape=(3, 3), dtype={p.data.dtype}, device={backend.device!r})"
    assert (p.shape, p.ndim, p.size, len(p)) == ((3, 3), 2, 9, 3)
    assert p.dtype == backend.xp.float64
    assert p.device == p.data.device
    assert p.__array_namespace__() is ops
    number = parameter(backend, 2.5)
    assert (float(number), int(number), bool(number)) == (2.5, 2, True)
    assert {p: 1}[p] == 1  # parameters can be keys


# --- what is wrapped -------------------------------------------------------------------------------------


def test_nothing_is_wrapped_outside_record(backend: Backend) -> None:
    p = parameter(backend, A)
    for y in (p + 1, ops.exp(p), ops.matmul(p, p), p[0, :], ops.concat([p, p])):
        assert isinstance(y, backend.array_type)


def test_constants_stay_plain_inside_record(backend: Backend) -> None:
    x = backend.from_numpy(A)
    with record():
        assert isinstance(ops.exp(x), backend.array_type)
        assert isinstance(stop_gradient(parameter(backend, A)), backend.array_type)
        assert isinstance(ops.exp(parameter(backend, A)), Tensor)


def test_stop_gradient_stops_it(backend: Backend) -> None:
    p = parameter(backend, A)
    with record():
        loss = ops.sum(p * stop_gradient(p))
    np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p)), A)
    assert stop_gradient(3) == 3


def test_a_reduction_is_an_array_not_a_scalar() -> None:
    total = ops.sum(np.ones(3))
    assert isinstance(total, np.ndarray)
    assert total.shape == ()


# --- gradients -------------------------------------------------------------------------------------------


def test_a_value_that_is_used_again_adds_up(backend: Backend) -> None:
    p = parameter(backend, A)
    with record():
        h = p * 2.0
        loss = ops.sum(h * h + h) + ops.sum(p)
    np.testing.assert_allclose(backend.to_numpy(backward(loss).wrt(p)), 8 * A + 2 + 1)


def test_the_order_of_use_does_not_matter() -> None:
    """A long and a short way to the same parameter: its gradient leaves when both have arrived."""
    p = Parameter(np.asarray(2.0))
    with record():
        h = ops.square(p)
        long = ops.exp(ops.log(ops.exp(ops.log(h))))
        loss = h * long
    np.testing.assert_allclose(backward(loss).wrt(p), 4 * 2.0**3)


def test_broadcasting_is_undone(backend: Backend) -> None:
    p = parameter(backend, np.ones((3, 1)))
    with record():
        loss = ops.sum(p + backend.from_numpy(np.ones((2, 3, 4))))
    np.testing.assert_array_equal(backend.to_numpy(backward(loss).wrt(p)), np.full((3, 1), 8.0))


def test_what_the_loss_does_not_use_gets_zeros(backend: Backend) -> None:
    p, q = parameter(backend, A), parameter(backend, B[:2])
    with record({"p": p, "q": q}):
        loss = ops.sum(p)
    grads = backward(loss)
    assert isinstance(grads["q"], backend.array_type)
    np.testing.assert_array_equal(backend.to_numpy(grads["q"]), np.zeros((2, 3)))


class Pair:
    """Something with `parameters`, as a module is."""

    def __init__(self, p: Parameter, q: Parameter) -> None:
        self.p, self.q = p, q

    def parameters(self) -> dict[str, Parameter]:
        return {"p": self.p, "q.weight": self.q}

    def __call__(self, x: Any) -> Any:
        return ops.sum(self.p * x + self.q)


def test_gradients_by_name(backend: Backend) -> None:
    module = Pair(parameter(backend, A), parameter(backend, B))
    with record(module):
        loss = module(3.0)
    grads = backward(loss)
    assert list(grads) == ["p", "q.weight"]
    assert len(grads) == 2
    np.testing.assert_array_equal(backend.to_numpy(grads["p"]), np.full((3, 3), 3.0))
    np.testing.assert_array_equal(backend.to_numpy(grads.wrt(module.q)), np.ones((3, 3)))
    with pytest.raises(KeyError):
        grads["r"]


def test_recording_some_parameters_freezes_the_others(backend: Backend) -> None:
    p, frozen = parameter(backend, A), parameter(backend, B)
    with record({"p": p}):
        assert isinstance(ops.exp(frozen), backend.array_type)
        loss = ops.sum(p * ops.exp(frozen))
    grads = backward(loss)
    np.testing.assert_allclose(backend.to_numpy(grads["p"]), np.exp(B))
    np.testing.assert_array_equal(backend.to_numpy(grads.wrt(frozen)), np.zeros((3, 3)))


def test_value_and_grad(backend: Backend) -> None:
    module = Pair(parameter(backend, A), parameter(backend, B))
    value, grads = value_and_grad(module, module)(2.0)
    assert isinstance(value, backend.array_type)
    np.testing.assert_allclose(backend.to_numpy(value), 2 * A.sum() + B.sum())
    assert set(grads) == {"p", "q.weight"}
    assert all(isinstance(g, backend.array_type) for g in grads.values())


def test_value_and_grad_of_a_constant_and_of_a_parameter(backend: Backend) -> None:
    p = parameter(backend, 2.0)
    constant: Callable[[], Any] = lambda: backend.from_numpy(np.asarray(1.0))  # noqa: E731
    value, grads = value_and_grad(constant, {"p": p})()
    assert (float(value), float(grads["p"])) == (1.0, 0.0)
    itself: Callable[[], Any] = lambda: p  # noqa: E731
    value, grads = value_and_grad(itself, {"p": p})()
    assert (float(value), float(grads["p"])) == (2.0, 1.0)
    assert isinstance(value, backend.array_type)


def test_value_and_grad_keeps_the_name_of_a_function() -> None:
    def loss() -> None:
        """Documented."""

    assert value_and_grad(loss, {}).__doc__ == checkpoint(loss).__doc__ == "Documented."
    assert not hasattr(value_and_grad(Pair(Parameter(A), Parameter(B)), {}), "p")


def test_a_copied_parameter_is_another_variable() -> None:
    p = Parameter(A)
    q = copy.deepcopy(p)
    with record():
        loss = ops.sum(p * 2.0 + q)
    grads = backward(loss)
    np.testing.assert_array_equal(grads.wrt(p), np.full((3, 3), 2.0))
    np.testing.assert_array_equal(grads.wrt(q), np.ones((3, 3)))


def test_a_gradient_that_nobody_needs_is_not_computed() -> None:
    computed = []

    @op
    def noticing(xp: Any, x1: Any, x2: Any, /) -> Any:
        def gradient(name: str) -> Callable[[], Any]:
            def thunk() -> Any:
                computed.append(name)
                return np.ones(2)

            return thunk

        return x1 + x2, lambda dy: (gradient("first"), gradient("second"))

    p, frozen = Parameter(np.ones(2)), Parameter(np.ones(2))
    with record({"p": p}):
        loss = ops.sum(noticing(np.ones(2), p)) + ops.sum(noticing(p, frozen))
    assert computed == []
    backward(loss)
    assert sorted(computed) == ["first", "second"]


def test_a_rule_of_a_third_party() -> None:
    @op
    def cube(xp: Any, x: Any, /) -> Any:
        return x**3, lambda dy: (dy * 3 * x * x,)

    check_gradient(cube, A)


# --- what is refused -------------------------------------------------------------------------------------


def test_backward_twice_is_refused() -> None:
    p = Parameter(A)
    with record():
        h = ops.exp(p)
        loss = ops.sum(h)
        other = ops.sum(h * 2.0)
    backward(loss)
    for used in (loss, other):
        with pytest.raises(RuntimeError, match="already used by backward"):
            backward(used)


def test_record_in_record_is_refused() -> None:
    with record(), pytest.raises(RuntimeError, match="first derivatives only"), record():
        pass
    with record(), pytest.raises(RuntimeError, match="first derivatives only"):
        value_and_grad(lambda: ops.sum(np.ones(1)), {})()
    with record():  # and nothing is left of the attempts
        pass


def test_only_a_recorded_scalar_can_be_differentiated() -> None:
    p = Parameter(A)
    with record():
        y = ops.exp(p)
    with pytest.raises(ValueError, match=r"the loss has shape \(3, 3\)"):
        backward(y)
    with pytest.raises(TypeError, match="no history"):
        backward(ops.sum(p))
    with pytest.raises(TypeError, match="no history"):
        backward(Tensor(np.ones(())))


def test_gradients_exist_for_parameters_only() -> None:
    p = Parameter(A)
    with record():
        h = ops.exp(p)
        loss = ops.sum(h)
    grads = backward(loss)
    for other in (h, A):
        with pytest.raises(TypeError, match="expected a Parameter"):
            grads.wrt(other)  # type: ignore[arg-type]


def test_an_error_ends_the_recording() -> None:
    with pytest.raises(ZeroDivisionError), record():
        raise ZeroDivisionError
    assert isinstance(ops.exp(Parameter(A)), np.ndarray)


def test_a_checkpoint_returns_one_array() -> None:
    p = Parameter(A)
    with record(), pytest.raises(TypeError, match="got tuple"):
        checkpoint(lambda x: (x, x))(p)


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert minidiff.__version__ == version("minidiff")
    with pytest.raises(AttributeError, match="nothing"):
        minidiff.nothing  # noqa: B018
