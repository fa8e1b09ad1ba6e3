"""What every function and every backend must satisfy, measured.

Results in float32 are compared with those of the generic rule in float64, gradients with central differences,
kernels with the generic rule on the same arrays. Arrays that go in must come out unchanged, and dtypes stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minidiff.autodiff import Parameter, backward, record
from minidiff.backend import Array, Backend, get_backend, register_backend
from minidiff.ops.support import dtype_name
from minidiff.testing.arrays import error, has_dtype, is_floating, lay, require, to_host
from minidiff.testing.case import Case
from minidiff.testing.gradient import check_gradient, total, weights_for

__all__ = ["Errors", "check_backend", "check_case", "without_kernels"]

FORWARD = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}  # the latter two: about ten roundings
GRADIENT = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}  # relative to the largest element
KERNEL = {"float32": 1e-5, "float64": 1e-10}


@dataclass(frozen=True)
class Errors:
    """The largest errors met, each relative to max(1, |expected|).

    Attributes
    ----------
    forward : float
        Of float32 results against the generic rule in float64.
    gradient : float
        Of float64 gradients against central differences.
    kernel : float
        Of kernels against generic rules, as a part of their tolerance; 0 without a kernel.
    served : int
        In how many calls a kernel did not return NotImplemented.
    """

    forward: float = 0.0
    gradient: float = 0.0
    kernel: float = 0.0
    served: int = 0

    def __or__(self, other: Errors) -> Errors:
        """The larger of each, and all that was served."""
        return Errors(
            max(self.forward, other.forward),
            max(self.gradient, other.gradient),
            max(self.kernel, other.kernel),
            self.served + other.served,
        )


@contextmanager
def serving(backend: Backend, kernels: Mapping[str, Any]) -> Iterator[None]:
    """Let `backend` have other kernels for a while, in the whole process."""
    register_backend(replace(backend, kernels=kernels))
    try:
        yield
    finally:
        register_backend(backend)


def without_kernels(backend: Backend) -> AbstractContextManager[None]:
    """A context in which arrays of `backend` are served by generic rules alone, in the whole process."""
    return serving(backend, {})


def check_case(backend: Backend, case: Case) -> Errors:
    """Hold one case to everything: result, gradient, dtypes, kernel, and inputs left alone.

    Raises
    ------
    AssertionError
        If an error is above its tolerance (1e-5 for float32 results, 1e-6 for float64
        gradients), a dtype changes, or an array was written to.
    """
    dtypes = [d for d in FORWARD if has_dtype(backend, d)]
    forward = {d: _check_dtype(backend, case, d) for d in dtypes}
    arrays = _place(backend, case, "float64")
    gradient = check_gradient(lambda *xs: case.call(backend, list(xs)), *arrays, backend=backend)
    return Errors(forward["float32"], gradient) | _check_kernel(backend, case)


def _place(backend: Backend, case: Case, dtype: str) -> list[Any]:
    return [lay(backend, x, dtype, case.layout) if isinstance(x, np.ndarray) else x for x in case.hosts()]


def _run(backend: Backend, case: Case, arrays: list[Any]) -> tuple[list[Array], dict[str, Array]]:
    """Results and gradients of a case; raises if an array that was passed has changed."""
    before = [to_host(backend, x) for x in arrays]
    inputs = [Parameter(x) if is_floating(backend, x) else x for x in arrays]
    variables = {f"gradient {i}": x for i, x in enumerate(inputs) if isinstance(x, Parameter)}
    with record(variables):
        ys = case.call(backend, inputs)
        weights = weights_for(backend, ys, case.layout)
        kept = [to_host(backend, w) for w in weights]
        loss = total(ys, weights)
    grads = dict(backward(loss))
    for what, old, new in (("an input", before, arrays), ("an incoming gradient", kept, weights)):
        for a, b in zip(old, new, strict=True):
            unchanged = not isinstance(b, backend.array_type) or np.array_equal(a, to_host(backend, b))
            require(unchanged, f"{case}: {what} was written to")
    return [y.data for y in ys], grads


def _check_dtype(backend: Backend, case: Case, dtype: str) -> float:
    """Compare with the generic rules on NumPy in float64; return the error of the results."""
    arrays = _place(backend, case, dtype)
    ys, grads = _run(backend, case, arrays)
    reference = get_backend("cpu")
    with without_kernels(reference):
        expected, slopes = _run(reference, case, [to_host(backend, x) for x in arrays])
    for what, made in [("result", ys), *((name, [g]) for name, g in grads.items())]:
        got = {dtype_name(y.dtype) for y in made}
        require(got == {dtype} or (what == "result" and not case.keeps_dtype), f"{case}: {what} is {got}")
    for name, exact in slopes.items():
        scale = max(1.0, float(np.max(np.abs(exact), initial=0.0)))
        _compare(backend, case, name, [grads[name] / scale], [exact / scale], GRADIENT[dtype])
    return _compare(backend, case, f"{dtype} result", ys, expected, FORWARD[dtype])


def _compare(
    backend: Backend, case: Case, what: str, actual: list[Array], expected: list[Any], tolerance: float
) -> float:
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        shapes = tuple(a.shape), tuple(e.shape)
        require(shapes[0] == shapes[1], f"{case}: {what} has shape {shapes[0]}, expected {shapes[1]}")
        worst = max(worst, error(to_host(backend, a), e))
    message = f"{case} on {backend.device}: {what} is off by {worst:.1e}, above {tolerance:.0e}"
    require(worst <= tolerance, message)
    return worst


def _check_kernel(backend: Backend, case: Case) -> Errors:
    """Compare a kernel with the generic rule on the same arrays, forward and every gradient."""
    kernel = backend.kernels.get(case.op)
    if kernel is None:
        return Errors()
    served: list[bool] = []

    def watched(*args: Any, **options: Any) -> Any:
        result = kernel(*args, **options)
        served.append(result is not NotImplemented)
        return result

    worst = 0.0
    for dtype, tolerance in KERNEL.items():
        arrays = _place(backend, case, dtype)
        with without_kernels(backend):
            expected, slopes = _run(backend, case, arrays)
        with serving(backend, {**backend.kernels, case.op: watched}):
            actual, grads = _run(backend, case, arrays)
        pairs = [("result", actual, expected), *((k, [grads[k]], [slopes[k]]) for k in grads)]
        for what, a, e in pairs:
            exact = [to_host(backend, x) for x in e]
            off = _compare(backend, case, f"{what} of the {dtype} kernel", a, exact, tolerance)
            worst = max(worst, off / tolerance)
    return Errors(kernel=worst, served=sum(served))


def check_backend(backend: str | Backend, cases: Iterable[Case] | None = None) -> dict[str, Errors]:
    """Hold a backend to the whole table of cases, and to the ways to and from NumPy.

    Parameters
    ----------
    backend : str or Backend
        It is registered, and stays so.
    cases : iterable of Case, optional
        `minidiff.testing.CASES` by default.

    Returns
    -------
    dict of str to Errors
        The largest errors of each function.

    Raises
    ------
    AssertionError
        At the first case that fails.
    """
    from minidiff.testing import CASES

    backend = get_backend(backend)
    register_backend(backend)
    check_crossing(backend)
    errors: dict[str, Errors] = {}
    for case in CASES if cases is None else cases:
        try:
            errors[case.op] = errors.get(case.op, Errors()) | check_case(backend, case)
        except Exception as failure:
            failure.add_note(f"in the case {case}")
            raise
    return errors


def check_crossing(backend: Backend) -> None:
    """Hold `from_numpy` and `to_numpy` to bringing back what was sent, however it lies in memory."""
    dtypes = ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
    for dtype in filter(lambda name: hasattr(backend.xp, name), dtypes):
        numbers = np.arange(12).reshape(3, 4).astype(dtype)
        for sent in (numbers, numbers.T, numbers[::-1, ::2], numbers[:0], np.asarray(numbers[1, 2])):
            there = backend.from_numpy(sent)
            back = backend.to_numpy(there)
            require(isinstance(there, backend.array_type), f"from_numpy made a {type(there).__name__}")
            require(dtype_name(there.dtype) == dtype, f"from_numpy: {dtype} became {there.dtype}")
            require(isinstance(back, np.ndarray), f"to_numpy made a {type(back).__name__}")
            same = back.dtype == sent.dtype and back.shape == sent.shape and np.array_equal(back, sent)
            require(same, f"{dtype} {sent.shape} came back as {back.dtype} {back.shape}")
        turned = backend.to_numpy(backend.xp.permute_dims(backend.from_numpy(numbers), (1, 0)))
        require(np.array_equal(turned, numbers.T), f"to_numpy of a transposed {dtype} array")
