"""What looks like a gradient and would be none: it is refused, by name. And what looks refused, and works."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidiff import Generator, Parameter, backward, nn, ops, record, value_and_grad
from minidiff.backend import Backend
from minidiff.optim import SGD


def parameter() -> Parameter:
    return Parameter(np.asarray([1.0, 2.0]))


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (lambda loss: (loss, loss), "tuple"),
        (lambda loss: None, "NoneType"),
        (lambda loss: float(loss), "float"),
        (lambda loss: {"loss": loss}, "dict"),
    ],
    ids=["a pair", "nothing", "a number", "a dict"],
)
def test_a_function_that_returns_no_array_has_no_gradient_of_zeros(result: Any, kind: str) -> None:
    w = parameter()
    with pytest.raises(TypeError, match=rf"value_and_grad: .* one array of shape \(\), not {kind}"):
        value_and_grad(lambda: result(ops.sum(w * w)), {"w": w})()


@pytest.mark.parametrize("constant", [False, True])
def test_a_function_that_returns_more_than_one_number(constant: bool) -> None:
    w = parameter()
    with pytest.raises(ValueError, match=r"only a scalar can be differentiated, the loss has shape \(2,\)"):
        value_and_grad(lambda: w.data * 2.0 if constant else w * 2.0, {"w": w})()


@pytest.mark.parametrize("data", [np.arange(3), np.ones(2, bool), np.ones(2, complex)], ids=str)
def test_a_parameter_holds_floating_numbers(data: Any) -> None:
    """An integer's gradient would be cut off, and no step would ever change it."""
    with pytest.raises(TypeError, match=f"array of floating numbers, got ndarray of {data.dtype}"):
        Parameter(data)


def test_a_parameter_holds_a_plain_array(backend: Backend) -> None:
    for dtype in (backend.xp.float32, backend.xp.float64):
        p = Parameter(backend.xp.asarray([1.0, 2.0], dtype=dtype))
        assert p.dtype == dtype
    with pytest.raises(TypeError, match="got Parameter of"):
        Parameter(p)
    with pytest.raises(TypeError, match="expected an array of an Array API library, got list"):
        Parameter([1.0, 2.0])


@pytest.mark.parametrize(
    "start",
    [lambda p: record(p).__enter__(), lambda p: value_and_grad(lambda: 0.0, p)(), lambda p: SGD(p, 0.1)],
    ids=["record", "value_and_grad", "SGD"],
)
def test_parameters_come_with_names(start: Any) -> None:
    for given, got in ((parameter(), "Parameter"), ([parameter()], "list")):
        with pytest.raises(TypeError, match=f"a module or a mapping of names to Parameters, got {got}"):
            start(given)
    with pytest.raises(TypeError, match="'w' is a ndarray, not a Parameter"):
        start({"w": np.ones(2)})


@pytest.mark.parametrize(
    "function", [np.asarray, np.mean, lambda x: np.concatenate([x, x]), lambda x: np.array([x])]
)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_numpy_does_not_take_the_history_away_in_silence(function: Any, shape: tuple[int, ...]) -> None:
    w = Parameter(np.ones(shape))
    with record():
        for x in (w, w * 2.0):
            with pytest.raises(TypeError, match=r"NumPy's functions do not take (Parameter|Tensor)\(shape"):
                function(x)


def test_a_loss_can_be_printed_while_it_is_recorded() -> None:
    w = parameter()
    with record():
        loss = ops.sum(w * w)
        assert f"{loss:.2f} {loss}" == "5.00 Tensor(shape=(), dtype=float64, device='cpu')"
    np.testing.assert_array_equal(backward(loss).wrt(w), [2.0, 4.0])


def test_numpys_scalars_are_arrays_of_shape_nothing() -> None:
    """NumPy's operators make them of what a reduction returns, which must not end there."""
    x = np.asarray([1.0, 2.0, 3.0], np.float32)
    root = ops.sqrt(ops.mean(x * x) + 1e-5)
    assert root.shape == ()
    assert root.dtype == np.float32
    np.testing.assert_allclose(root, np.sqrt(14 / 3 + 1e-5), rtol=1e-6)
    assert ops.multiply(np.float64(2.0), np.float64(3.0)) == 6
    assert ops.add(x, np.float64(1.0)).dtype == np.float32  # beside an array it is a number, as ever
    with pytest.raises(TypeError, match=r"sqrt: expected at least one array, got \(2.0\)"):
        ops.sqrt(2.0)


def test_a_long_list_in_place_of_an_array_is_not_printed_whole() -> None:
    numbers = [0.5] * 10_000
    for function in (ops.square, lambda x: ops.mse_loss(x, x), nn.Linear(2, 2, rng=Generator(0))):
        with pytest.raises((TypeError, AttributeError)) as caught:
            function(numbers)
        assert len(" ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])) < 300


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)], ids=str)
def test_softmax_of_nothing_is_nothing(shape: tuple[int, ...]) -> None:
    for function in (ops.softmax, ops.log_softmax):
        for axis in range(len(shape)):
            p = Parameter(np.ones(shape, np.float32))
            with record():
                y = function(p, axis=axis)
                loss = ops.sum(y)
            assert y.shape == backward(loss).wrt(p).shape == shape


class Net(nn.Module):
    """Modules by name, two names for one weight."""

    def __init__(self) -> None:
        rng = Generator(0)
        self.options = {"bias": True, "sizes": [2, 2]}
        self.blocks = {"first": nn.Linear(2, 2, rng=rng), "more": {"second": nn.Linear(2, 2, rng=rng)}}
        self.blocks["more"]["second"].weight = self.blocks["first"].weight

    def __call__(self, x: Any) -> Any:
        return self.blocks["more"]["second"](self.blocks["first"](x))


def test_a_dict_of_modules_is_trained_and_a_shared_weight_once() -> None:
    net, x = Net(), np.asarray([[1.0, -2.0]], np.float32)
    names = ["blocks.first.weight", "blocks.first.bias", "blocks.more.second.bias"]
    assert list(net.parameters()) == list(net.state_dict()) == names
    assert net.num_parameters() == 4 + 2 + 2
    assert "more:\n      second: Linear" in repr(net)
    _, grads = value_and_grad(lambda: ops.sum(net(x)), net)()
    w, b = (net.parameters()[name].data for name in names[:2])
    hidden, down = x[0] @ w.T + b, w.sum(axis=0)  # the weight's two places add up
    expected = np.tile(hidden, (2, 1)) + np.outer(down, x[0])
    np.testing.assert_allclose(grads[names[0]], expected, rtol=1e-5)
    np.testing.assert_array_equal(grads[names[2]], [1, 1])
    other = Net()
    other.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(other(x), net(x))
