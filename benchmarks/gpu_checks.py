"""The first section of `benchmarks.gpu`: what the kernels compute, on numbers that no run before had.

Every kernel is held against the generic rule in float64, by the relative norm of the difference; an expected norm
below 1 counts as 1. Memory that kernels allocate is full of NaN before they write to it. Inputs are those of the
conformance suite (the reference is NumPy) and those of the U-Net and of the timings (the reference is the generic
rule on the device).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from benchmarks.gpu_bench import Bench
from benchmarks.gpu_convolutions import convolutions
from benchmarks.gpu_parties import Hosts, call, drawn, images, laid, layout_of, network, sent_back
from minidiff import Generator, Parameter, backward, ops, precision, record, stop_gradient, value_and_grad
from minidiff.backend import Array, Backend, get_backend, register_backend
from minidiff.diffusion import DDIM, sample
from minidiff.ops.support import find_dtype
from minidiff.optim import rules
from minidiff.philox import RULES
from minidiff.testing import CASES, Case, without_kernels
from minidiff.testing.arrays import is_floating, lay, to_host
from minidiff.testing.case import case, normal
from minidiff.testing.conformance import serving

__all__ = ["MODES", "measure_checks"]

Precision = Literal["fast", "exact"]
Errors = dict[str, dict[str, float]]  # by kernel and by mode: the largest
Layout = Callable[[Case, int], str]

MODES: dict[str, tuple[str, Precision, float]] = {  # dtype, precision, the largest error of a kernel
    "exact": ("float32", "exact", 1e-5),
    "TF32": ("float32", "fast", 2e-3),
    "float16": ("float16", "fast", 2e-3),
    "bfloat16": ("bfloat16", "fast", 1e-2),
}
PRODUCTS = {"conv2d", "conv_transpose2d", "linear", "scaled_dot_product_attention"}  # what TF32 is for
FAR_FROM_ZERO = 1e-4  # the largest error of group_norm on numbers of mean 1000 and standard deviation 1
NETWORK = 10  # times the limit of a kernel: a network is many
PIXEL = 1e-3  # the largest difference of a pixel from the CPU's

DRAWS = (1, 5, 4097, 1_000_003)
SIZES = (1, 3, 4096, 5000)  # of parameters; a block takes 4096 numbers
STEP = {"lr": 0.01, "weight_decay": 0.01, "step": 3}
# Of each rule, what a row is: p and g in the dtype, m and v in float32, v of squares. And its options.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("pg", STEP),
    "momentum": ("pgm", {**STEP, "momentum": 0.9, "nesterov": True}),
    "adam": ("pgmv", {**STEP, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    "ema": ("mp", {"decay": 0.99}),
}
MOST_NORM = 0.5  # of clipped gradients


def measure_checks(bench: Bench) -> dict[str, Any]:
    """All checks; figures are the largest error of each kernel and mode. What fails is among the bench's failures."""
    own = bench.device.backend
    bench.say(f"inputs from seed {bench.seed}; errors are relative norms")
    with poisoned(own) as device:
        checks = _Checks(bench, device)
        shapes = bench.attempt("shapes of the timings", bench.shapes) or ()
        figures: dict[str, Any] = {
            "seed": bench.seed,
            "draws": checks.noise(),
            "optimizers": checks.optimizers(),
            "shapes of the timings": checks.cases("at the shapes of the timings", shapes, device),
            "convolutions": checks.cases("of convolutions for every tile", convolutions(bench.plan), device),
            "group_norm, mean 1000": checks.far_from_zero(),
            "network": checks.network(),
        }
    figures["images"] = checks.images(own)
    with poisoned(own) as checks.device:
        cases = [c for c in CASES if c.op in own.kernels]
        title = f"of {len(cases)} cases of the conformance suite"
        figures["conformance"] = checks.cases(title, _in_turns(cases), get_backend("cpu"), as_case_says)
    figures["never ran"] = sorted(set(own.kernels) - checks.ran)
    if bench.budget.left() > 0:
        bench.require(not figures["never ran"], f"kernels that never ran: {', '.join(figures['never ran'])}")
    return figures


class _Checks:
    """Checks of a device's kernels, and the names of those that ran."""

    def __init__(self, bench: Bench, device: Backend) -> None:
        self.bench, self.device = bench, device
        self.rng = np.random.default_rng(bench.seed)
        self.ran: set[str] = set()

    def _hold(self, label: str, limit: float, run: Callable[[], float | None]) -> float | None:
        """The error that `run()` returns, which must not be above the limit; None where there is none."""
        error = self.bench.attempt(label, run)
        if error is not None:
            self.bench.require(error <= limit, f"{label}: off by {error:.1e}, above {limit:.0e}")
        return error

    def noise(self) -> int:
        """How many draws were made; each must be the CPU's, bit for bit."""
        errors = []
        for size in DRAWS:
            seed, counter = (int(n) for n in self.rng.integers(0, 2**62, 2))
            where = f"{size} of seed {seed}, counter {counter}"
            blocks = -(-size // 4)
            errors.append(self._draw(f"words, {where}", "random_words", seed, counter, blocks))
            for name in ("float32", "float64", "float16"):
                label = f"{name}, {where}"
                errors.append(self._draw(label, "random_normal", seed, counter, size, name))
        right = errors.count(0.0)
        self.bench.say(f"draws equal to the CPU's, bit for bit: {right} of {len(errors)}")
        return right

    def _draw(self, label: str, rule: str, seed: int, counter: int, amount: int, *dtype: str) -> float | None:
        cpu = get_backend("cpu")

        def differing() -> float | None:
            drawn = []
            for backend, draw in ((self.device, self.device.kernels[rule]), (cpu, RULES[rule])):
                types = [find_dtype(backend.xp, name) for name in dtype]
                drawn.append(draw(backend, seed, 0, counter, amount, *types))
            if drawn[0] is NotImplemented:
                return None
            self.ran.add(rule)
            ours, theirs = self.device.to_numpy(drawn[0]), drawn[1]
            return float(np.sum(ours.view(np.uint8) != theirs.view(np.uint8)))

        return self._hold(f"noise, {label}: bytes", 0.0, differing)

    def optimizers(self) -> Errors:
        """Rules of the optimizers, of one parameter and of all at once, and clipping."""
        errors: Errors = {}
        for mode in ("exact", "float16", "bfloat16"):
            dtype, _, limit = MODES[mode]
            runs = {
                f"{name}{behind}": partial(self._rows, name, behind, dtype)
                for name in OPTIMIZERS
                for behind in ("", "_all")
            }
            runs |= {
                "square_sum": partial(self._square_sum, dtype),
                "clip_all": partial(self._clipped, dtype),
            }
            for name, run in runs.items():
                if name in self.device.kernels:
                    _note(errors, name, mode, self._hold(f"{mode} {name}", limit, run))
        self._table("of optimizers", errors)
        return errors

    def _rows(self, name: str, behind: str, dtype: str) -> float | None:
        """The error of a rule for parameters of some sizes, each for itself or all at once."""
        (columns, options), kernel = OPTIMIZERS[name], self.device.kernels[name + behind]
        rows = [tuple(self._column(c, size, dtype) for c in columns) for size in SIZES]
        wide = [tuple(to_host(self.device, x) for x in row) for row in rows]  # moments will be written to
        xp = self.device.xp
        new = kernel(xp, rows, **options) if behind else [kernel(xp, *row, **options) for row in rows]
        if new is NotImplemented or any(row is NotImplemented for row in new):
            return None
        self.ran.add(name + behind)
        rule, host = getattr(rules, name), get_backend("cpu")
        pairs = zip(new, (rule(host.xp, *row, **options) for row in wide), strict=True)
        return max(self._error(a, e, host) for row, other in pairs for a, e in zip(row, other, strict=True))

    def _square_sum(self, dtype: str) -> float | None:
        arrays = [self._column("g", size, dtype) for size in SIZES]
        total = self.device.kernels["square_sum"](self.device.xp, *arrays)
        if total is NotImplemented:
            return None
        self.ran.add("square_sum")
        expected = sum(np.sum(to_host(self.device, g) ** 2) for g in arrays)
        return self._error(total[0], np.asarray(expected), get_backend("cpu"))

    def _clipped(self, dtype: str) -> float | None:
        arrays = [self._column("g", size, dtype) for size in SIZES]
        result = self.device.kernels["clip_all"](self.device.xp, arrays, max_norm=MOST_NORM)
        if result is NotImplemented:
            return None
        self.ran.add("clip_all")
        wide = [to_host(self.device, g) for g in arrays]
        squares, expected = rules.clip_all(get_backend("cpu").xp, wide, max_norm=MOST_NORM)
        pairs = zip([result[0], *result[1]], [squares, *expected], strict=True)
        return max(self._error(a, np.asarray(e), get_backend("cpu")) for a, e in pairs)

    def _column(self, column: str, size: int, dtype: str) -> Array:
        x = self.rng.standard_normal(size)
        return lay(
            self.device, x * x if column == "v" else x, dtype if column in "pg" else "float32", "contiguous"
        )

    def cases(
        self, title: str, cases: Iterable[Case], reference: Backend, layout: Layout = layout_of
    ) -> Errors:
        """Kernels of ops and their gradients; `reference` computes by generic rules, in float64."""
        errors: Errors = {}
        for each in cases:
            hosts = drawn(each, self.rng)
            for mode, (dtype, how, limit) in MODES.items():
                if mode != "TF32" or each.op in PRODUCTS:
                    run = partial(self._against, each, hosts, dtype, how, reference, layout)
                    _note(errors, each.op, mode, self._hold(f"{mode} {each}", limit, run))
        self._table(title, errors)
        return errors

    def far_from_zero(self) -> float | None:
        """The error of group_norm on float32 numbers of mean 1000."""
        each = case("group_norm", normal(4, 64, 32, 32), normal(64), normal(64), groups=8, activation="silu")
        hosts = drawn(each, self.rng)
        hosts[0] = hosts[0] + np.float32(1000)
        run = partial(self._against, each, hosts, "float32", "exact", self.device, layout_of)
        error = self._hold("group_norm on numbers of mean 1000", FAR_FROM_ZERO, run)
        self._say_error("group_norm on numbers of mean 1000, standard deviation 1", error, FAR_FROM_ZERO)
        return error

    def _against(
        self, each: Case, hosts: Hosts, dtype: str, how: Precision, reference: Backend, layout: Layout
    ) -> float | None:
        """The error of a kernel's result and gradients; None if it does not serve the case."""
        served: list[bool] = []
        kernel = self.device.kernels[each.op]

        def watched(*arrays: Any, **options: Any) -> Any:
            result = kernel(*arrays, **options)
            served.append(result is not NotImplemented)
            return result

        arriving: list[Array] = []

        def ours(shape: tuple[int, ...]) -> Array:
            arriving.append(lay(self.device, self.rng.standard_normal(shape), dtype, layout(each, 0)))
            return arriving[0]

        arrays = laid(self.device, each, hosts, dtype, layout)
        with precision(how), serving(self.device, {**self.device.kernels, each.op: watched}):
            actual = _results(self.device, each, arrays, ours)
        if not all(served):
            return None
        self.ran.add(each.op)
        wide = [self._widened(x, reference) for x in arrays]
        with without_kernels(reference):
            expected = _results(reference, each, wide, lambda _: self._widened(arriving[0], reference))
        return max(self._error(a, e, reference) for a, e in zip(actual, expected, strict=True))

    def network(self) -> Errors:
        """Forward and gradient of the U-Net against the generic rules in float64, on the device."""
        plan, errors = self.bench.plan, Errors()
        x, t, noise = images(plan.batch, plan.side)
        expected = self.bench.attempt("network in float64", lambda: self._network(x, t, noise, "float64"))
        for mode, (dtype, how, limit) in MODES.items():

            def made(dtype: str = dtype, how: Precision = how) -> tuple[Array, Array]:
                with precision(how):
                    return self._network(x, t, noise, dtype)

            ours = self.bench.attempt(f"{mode} network", made)
            for name, actual, exact in zip(("output", "gradient"), ours or (), expected or (), strict=False):
                label, run = f"{mode} {name} of the network", partial(self._error, actual, exact, self.device)
                _note(errors, name, mode, self._hold(label, NETWORK * limit, run))
        self._table(f"of UNet(3, {plan.channels}, 3), batch {plan.batch}", errors, times=NETWORK)
        return errors

    def _network(self, *arrays: Any) -> tuple[Array, Array]:
        """The output, and all gradients as one array, for images, timesteps, noise and a dtype."""
        x, t, noise, dtype = arrays
        xp = self.device.xp
        x, noise = (xp.astype(self.device.from_numpy(a), find_dtype(xp, dtype)) for a in (x, noise))
        model = network(self.device, self.bench.plan.channels)
        _, grads = value_and_grad(lambda: ops.mse_loss(model(x, self.device.from_numpy(t)), noise), model)()
        flat = [xp.reshape(g, (-1,)) for g in grads.values()]
        return model(x, self.device.from_numpy(t)), xp.concat(flat)

    def images(self, device: Backend) -> dict[str, float]:
        """The largest difference between pixels of images that device and CPU draw from one seed."""
        plan, found = self.bench.plan, {}

        def draw(backend: Backend, how: Precision) -> Array:
            model = network(backend, plan.channels)
            shape, rng = (plan.batch, 3, plan.side, plan.side), Generator(self.bench.seed, backend)
            with precision(how):
                return backend.to_numpy(sample(model, shape, DDIM(), steps=plan.check_steps, rng=rng))

        expected = self.bench.attempt("images on the CPU", lambda: draw(get_backend("cpu"), "exact"))
        modes: dict[str, tuple[Precision, float]] = {"exact": ("exact", PIXEL), "TF32": ("fast", np.inf)}
        for mode, (how, limit) in modes.items():
            if expected is not None:
                label = f"{mode} images, {plan.check_steps} steps of DDIM"
                run = partial(lambda how: float(np.abs(draw(device, how) - expected).max()), how)
                error = self._hold(label, limit, run)
                self._say_error(f"{label}: largest difference of a pixel from the CPU's", error, limit)
                if error is not None:
                    found[mode] = error
        return found

    def _widened(self, x: Any, reference: Backend) -> Any:
        """The same numbers on the reference's device, in float64 where they are floating."""
        if not isinstance(x, self.device.array_type):
            return x
        if reference is not self.device:
            return to_host(self.device, x)
        return self.device.xp.astype(x, self.device.xp.float64) if is_floating(self.device, x) else x

    def _error(self, actual: Array, expected: Array, reference: Backend) -> float:
        """Norm of the difference, relative to that of the expected array, or to 1 if that is smaller."""
        if tuple(actual.shape) != tuple(expected.shape):
            raise ArithmeticError(f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        xp = reference.xp
        difference = self._widened(actual, reference) - expected
        norms = (float(xp.sqrt(xp.sum(x * x))) for x in (difference, xp.astype(expected, xp.float64)))
        return next(norms) / max(next(norms), 1.0)

    def _say_error(self, what: str, error: float | None, limit: float) -> None:
        if error is not None:
            self.bench.say(f"{what}: {error:.1e}" + (f" (limit {limit:.0e})" if limit < np.inf else ""))

    def _table(self, title: str, errors: Errors, times: float = 1) -> None:
        lines = [f"\nlargest errors {title}", " " * 30 + "".join(f"{mode:>10}" for mode in MODES)]
        rows = {**errors, "limit": {mode: times * limit for mode, (_, _, limit) in MODES.items()}}
        for name, row in rows.items():
            cells = (f"{row[mode]:.1e}" if mode in row else "" for mode in MODES)
            lines.append(f"{name:<30}" + "".join(f"{cell:>10}" for cell in cells))
        self.bench.say("\n".join(lines))


def as_case_says(each: Case, number: int) -> str:
    """The layout of a case's arrays."""
    return each.layout


@contextmanager
def poisoned(backend: Backend) -> Iterator[Backend]:
    """Let kernels of a backend get memory full of NaN, in the whole process."""
    made = replace(backend, xp=_Poisoning(backend.xp))
    register_backend(made)
    try:
        yield made
    finally:
        register_backend(backend)


class _Poisoning:
    """A namespace whose empty arrays are full of bytes 0xFF: NaN in floating types, -1 in integers."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def empty(self, *shape: Any, **options: Any) -> Array:
        return _poison(self._xp.empty(*shape, **options))

    def empty_like(self, *like: Any, **options: Any) -> Array:
        return _poison(self._xp.empty_like(*like, **options))


def _poison(x: Array) -> Array:
    if x.size and x.dtype.kind != "b":
        x.reshape(-1).view("uint8").fill(255)
    return x


def _results(
    backend: Backend, each: Case, arrays: Hosts, arriving: Callable[[tuple[int, ...]], Array]
) -> list[Array]:
    """The result of a case, and its gradients when `arriving(shape)` arrives."""
    inputs = [Parameter(x) if is_floating(backend, x) else x for x in arrays]
    with record():
        y = call(each, inputs)
        end = sent_back(y, dy=arriving(tuple(y.shape)))
    found = backward(end)
    return [stop_gradient(y), *(found.wrt(x) for x in inputs if isinstance(x, Parameter))]


def _note(errors: Errors, name: str, mode: str, error: float | None) -> None:
    if error is not None:
        row = errors.setdefault(name, {})
        row[mode] = max(row.get(mode, 0.0), error)


def _in_turns(cases: Iterable[Case]) -> Iterator[Case]:
    """First one case of every op, then the second of each, so that what time cuts off is spread."""
    by_op: dict[str, list[Case]] = {}
    for each in cases:
        by_op.setdefault(each.op, []).append(each)
    return (each for row in zip_longest(*by_op.values()) for each in row if each is not None)
