"""The optimizers: each is a rule of `minidiff.optim.rules` with its options checked."""

from __future__ import annotations

from minidiff.autodiff import Parameters
from minidiff.optim import rules
from minidiff.optim.lr import LearningRate
from minidiff.optim.optimizer import Optimizer

__all__ = ["SGD", "Adam", "AdamW"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's momentum [1]_.

    Parameters
    ----------
    parameters, lr
        See `Optimizer`.
    momentum : float
        From 0 (none) to less than 1.
    nesterov : bool
        Look ahead along the momentum; needs momentum.
    weight_decay : float
        Added to the gradient, times the parameter.

    References
    ----------
    .. [1] Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep
       learning", ICML 2013.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | LearningRate,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        _below_one("SGD", momentum=momentum)
        _not_negative("SGD", weight_decay=weight_decay)
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")
        if momentum:
            options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
            super().__init__(parameters, lr, rules.momentum, ("b",), **options)
        else:
            super().__init__(parameters, lr, rules.sgd, (), weight_decay=weight_decay)


class Adam(Optimizer):
    """Adam: steps of about the learning rate, whatever the gradient's scale [1]_.

    Parameters
    ----------
    parameters, lr
        See `Optimizer`.
    betas : (float, float)
        How much of the averages of the gradient and of its square a step keeps, from 0 to less than 1.
    eps : float
        Keeps the quotient finite; at least 0.

    References
    ----------
    .. [1] Kingma, Ba, "Adam: A method for stochastic optimization", 2015, arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from minidiff import Parameter
    >>> w = Parameter(np.asarray([1.0, 2.0]))
    >>> Adam({"w": w}, lr=0.5).step({"w": np.asarray([3.0, -4.0])})
    >>> w.data
    array([0.5, 2.5])
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | LearningRate = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr, rules.adam, ("m", "v"), **_adam_options("Adam", betas, eps, 0.0))


class AdamW(Optimizer):
    """Adam with decoupled weight decay: each step also shrinks the parameter by lr * weight_decay [1]_.

    Parameters
    ----------
    parameters, lr, betas, eps
        See `Adam`.
    weight_decay : float
        At least 0.

    References
    ----------
    .. [1] Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, arXiv:1711.05101.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | LearningRate = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            parameters, lr, rules.adam, ("m", "v"), **_adam_options("AdamW", betas, eps, weight_decay)
        )


def _adam_options(name: str, betas: tuple[float, float], eps: float, weight_decay: float) -> dict[str, float]:
    _below_one(name, beta1=betas[0], beta2=betas[1])
    _not_negative(name, eps=eps, weight_decay=weight_decay)
    return {"beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}


def _below_one(name: str, **values: float) -> None:
    for what, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}: {what} must be from 0 to less than 1, got {value}")


def _not_negative(name: str, **values: float) -> None:
    for what, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: {what} must be at least 0, got {value}")
