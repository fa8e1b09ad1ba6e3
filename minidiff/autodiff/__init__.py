"""Reverse-mode differentiation: a tensor, a graph, and `op`.

An operation is one function, its *rule*, which returns a value and the function that
pulls a gradient back through it:

    @op
    def exp(xp, x, /):
        y = xp.exp(x)
        return y, lambda dy: (dy * y,)

What the pullback closes over is what backpropagation remembers; there is no other store.

Operations take arrays of any Array API library and return the same kind. Only inside
`record()` does an operation that meets a `Parameter` (or something computed from one)
return a `Tensor`, which carries its history; arrays alone stay arrays, so sampling needs
no `no_grad`. First derivatives only: pullbacks compute with arrays.
"""

from minidiff.autodiff.backward import Gradients, backward, checkpoint, value_and_grad
from minidiff.autodiff.operation import op
from minidiff.autodiff.recording import is_recording, record
from minidiff.autodiff.tensor import Parameter, Parameters, Tensor, stop_gradient

__all__ = [
    "Gradients",
    "Parameter",
    "Parameters",
    "Tensor",
    "backward",
    "checkpoint",
    "is_recording",
    "op",
    "record",
    "stop_gradient",
    "value_and_grad",
]
