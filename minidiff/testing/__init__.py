"""Tools for those who write functions, layers or backends: gradient checks and the conformance suite.

The suite is a table of cases, `CASES`: every differentiable function of `minidiff.ops`, called in every way
that has its own code somewhere. Our tests, the authors of backends, and the command that prints the
conformance table (`python -m minidiff.testing`) run the same table.

Examples
--------
>>> import numpy as np
>>> from minidiff import ops
>>> from minidiff.testing import check_gradient
>>> check_gradient(lambda x: ops.silu(ops.square(x)), np.linspace(-1.0, 1.0, 5)) < 1e-8
True
"""

from minidiff.testing.case import Case, Input, Seed
from minidiff.testing.conformance import Errors, check_backend, check_case, without_kernels
from minidiff.testing.gradient import check_gradient
from minidiff.testing.libraries import load_backend
from minidiff.testing.network_cases import NETWORK_CASES
from minidiff.testing.standard_cases import STANDARD_CASES

__all__ = [
    "CASES",
    "Case",
    "Errors",
    "Input",
    "Seed",
    "check_backend",
    "check_case",
    "check_gradient",
    "load_backend",
    "without_kernels",
]

CASES = (*STANDARD_CASES, *NETWORK_CASES)
