"""Cases of the functions that have the standard's names: element-wise, statistical, shaping, matrix products."""

from __future__ import annotations

import numpy as np

from minidiff.testing.case import Case, booleans, case, labels, normal, positive, unit

__all__ = ["STANDARD_CASES"]

ANYWHERE = ("abs", "atan", "cos", "cosh", "erf", "exp", "expm1", "negative", "sin", "sinh", "square", "tanh")
POSITIVE = ("log", "log10", "log1p", "log2", "reciprocal", "sqrt")
UNIT = ("acos", "asin", "tan")
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "atan2", "logaddexp", "pow")
REDUCTIONS = ("sum", "mean", "var", "std", "max", "min")
PAIRS = [  # of shapes that broadcast
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((3,), (2, 3)),
    ((2, 1, 3), (4, 1)),
    ((), (2, 3)),
    ((2, 3), ()),
    ((1, 1), (2, 3)),
    ((0, 3), (3,)),
    ((2, 3), (0, 1, 3)),
]

ELEMENTWISE: list[Case] = [
    *(case(name, normal(2, 3)) for name in ANYWHERE),
    *(case(name, positive(2, 3)) for name in POSITIVE),
    *(case(name, unit(2, 3)) for name in UNIT),
    *(case(name, make(0, 3)) for names, make in ((ANYWHERE, normal), (POSITIVE, positive)) for name in names),
    *(case(name, positive(4, 3), layout="transposed") for name in (*ANYWHERE, *POSITIVE)),
    *(case(name, unit()) for name in (*ANYWHERE, *UNIT)),
    case("erf", normal(50), note="centre and slopes"),
    *(case(name, positive(*a), positive(*b)) for name in BINARY for a, b in PAIRS),
    *(case(name, positive(2, 4), positive(2, 4), layout="strided") for name in BINARY),
    *(case(name, positive(2, 3), 1.5) for name in BINARY),
    *(case(name, 1.5, positive(2, 3)) for name in BINARY),
    *(case("pow", normal(2, 3), exponent) for exponent in (0, 1, 2, 3)),
    case("pow", positive(2, 3), -0.5),
    case("multiply", normal(2, 3), 2, note="an int"),
    case("divide", normal(2, 3), 2, note="an int"),
    *(
        case(
            "linear_combination",
            *[normal(2, 3)] * count,
            coefficients=(0.5, -1.5, 2, 0.0, 3.0, 1, -0.2, 0.7, 4)[:count],
        )
        for count in (1, 2, 3, 9)
    ),
    case("linear_combination", normal(0, 3), normal(0, 3), coefficients=(1.0, 2.0)),
    case("linear_combination", normal(), normal(), coefficients=(1.0, 2.0)),
    *(
        case(
            "linear_combination",
            normal(2, 3, 4, 5),
            normal(2, 3, 4, 5),
            coefficients=(1.0, -2.0),
            layout=layout,
        )
        for layout in ("transposed", "strided", "channels last")
    ),
    *(
        case("clip", normal(3, 4), low, high)
        for low, high in ((-0.5, 0.5), (None, 0.5), (-0.5, None), (0, 1), (None, None))
    ),
    case("clip", normal(3, 4), min=-0.5, max=0.5, note="by name"),
    *(case("where", booleans(*np.broadcast_shapes(a, b)), normal(*a), normal(*b)) for a, b in PAIRS),
    case("where", booleans(2, 3), normal(2, 3), 0.0),
    case("where", booleans(2, 3), 1, normal(2, 3)),
    case("where", booleans(3), normal(2, 3), normal(2, 1)),
    case("astype", normal(2, 3), "float64"),
    case("astype", normal(0, 3), "float64"),
    case("asarray", normal(2, 3)),
    case("asarray", normal(2, 3), dtype="float64"),
]

STATISTICS: list[Case] = [
    *(case(name, normal(2, 3, 4)) for name in REDUCTIONS),
    *(case(name, normal(2, 3, 4), axis=axis) for name in REDUCTIONS for axis in (0, 1, -1, (0, 2), (-1, -2))),
    *(
        case(name, normal(2, 3, 4), axis=axis, keepdims=True)
        for name in REDUCTIONS
        for axis in (None, 1, (0, -1))
    ),
    *(case(name, normal(0, 3), axis=1) for name in REDUCTIONS),
    *(case(name, normal(4, 3, 2), axis=1, layout="transposed") for name in REDUCTIONS),
    *(case(name, normal(3, 4), axis=0, layout="strided") for name in REDUCTIONS),
    *(case(name, normal(5)) for name in REDUCTIONS),
    case("sum", normal(0, 3)),
    case("sum", normal(2, 3), axis=()),
    case("sum", normal(2, 3), axis=0, dtype="float64"),
    *(case(name, normal(2, 5), axis=1, correction=1) for name in ("var", "std")),
    *(case("cumulative_sum", normal(2, 3, 4), axis=axis) for axis in (0, 1, -1)),
    case("cumulative_sum", normal(0, 4), axis=1),
    case("cumulative_sum", normal(3, 4), axis=0, layout="transposed"),
]

SHAPING: list[Case] = [
    *(case("reshape", normal(2, 3, 4), shape) for shape in ((6, 4), (2, -1), (24,), (2, 3, 4))),
    case("reshape", normal(2, 3, 4), (4, 6), layout="transposed"),
    case("reshape", normal(0, 4), (0, 2, 2)),
    *(case("permute_dims", normal(2, 3, 4), axes) for axes in ((2, 0, 1), (0, 1, 2), (-1, 0, 1))),
    case("permute_dims", normal(2, 3, 4), (1, 0, 2), layout="strided"),
    case("matrix_transpose", normal(2, 3, 4)),
    case("matrix_transpose", normal(3, 4)),
    case("moveaxis", normal(2, 3, 4), 0, -1),
    case("moveaxis", normal(2, 3, 4, 5), (0, 1), (-1, 0)),
    *(case("expand_dims", normal(2, 3), axis=axis) for axis in (0, 1, -1)),
    case("squeeze", normal(2, 1, 3), 1),
    case("squeeze", normal(1, 2, 1), (0, -1)),
    *(case("concat", normal(2, 3, 2), normal(2, 1, 2), normal(2, 4, 2), axis=axis) for axis in (1, -2)),
    case("concat", normal(2, 3), normal(0, 3)),
    case("concat", normal(3)),
    case("concat", normal(2, 3), normal(4, 3), layout="strided"),
    *(case("stack", normal(2, 3), normal(2, 3), axis=axis) for axis in (0, 1, -1)),
    case("stack", normal(0, 3), normal(0, 3), axis=1),
    *(case("unstack", normal(2, 3, 2), axis=axis) for axis in (0, 1, -1)),
    *(case("flip", normal(2, 3), axis=axis) for axis in (None, 0, (0, 1))),
    case("roll", normal(2, 3), 2),
    case("roll", normal(2, 3), -1, axis=1),
    case("roll", normal(2, 3), (1, 2), axis=(0, 1)),
    *(case("broadcast_to", normal(*shape), (4, 2, 3)) for shape in ((2, 3), (1, 3), (2, 1), (), (4, 2, 3))),
    case("broadcast_to", normal(3), (0, 3)),
    case("broadcast_arrays", normal(2, 1), normal(3)),
    *(case("repeat", normal(2, 3), 2, axis=axis) for axis in (0, 1, -1)),
    case("repeat", normal(0, 3), 2, axis=0),
    *(case("tile", normal(2, 3), counts) for counts in ((2,), (2, 1), (3, 1, 2))),
    case("pad", normal(2, 3), ((1, 0), (0, 2))),
    case("pad", normal(2, 3), ((1, 1), (2, 2)), value=1.5),
    case("pad", normal(0, 3), ((0, 0), (1, 1))),
    case("tril", normal(2, 3, 3)),
    case("tril", normal(3, 4), k=1),
    case("triu", normal(2, 3, 3)),
    case("triu", normal(3, 4), k=-1),
    *(
        case("getitem", normal(3, 4, 5), key)
        for key in (
            (0, ...),
            (-1, slice(None), slice(None)),
            (slice(1, 3), ..., slice(None, None, 2)),
            (..., None, 1),
            (None, ..., slice(0, 0)),
            (1, 2, 3),
            ...,
        )
    ),
    case("getitem", normal(4), 2),
    case("getitem", normal(4), slice(1, None)),
    case("getitem", normal(3, 4), booleans(3, 4)),
    case("getitem", normal(4, 6), (slice(1, None), slice(None, None, 3)), layout="transposed"),
    case("take", normal(5, 3), labels(5, 7), axis=0, note="repeated"),
    case("take", normal(2, 5, 3), labels(5, 4), axis=-2),
    case("take", normal(5, 3), labels(5, 0), axis=0),
    case("take_along_axis", normal(5, 3), labels(5, 2, 3), axis=0),
    case("take_along_axis", normal(2, 3, 4), labels(4, 2, 3, 6), axis=-1),
]

PRODUCTS: list[Case] = [
    *(
        case("matmul", normal(*a), normal(*b))
        for a, b in (
            ((2, 3), (3, 4)),
            ((3,), (3,)),
            ((3,), (3, 4)),
            ((2, 3), (3,)),
            ((3,), (2, 3, 4)),
            ((2, 4, 3), (3,)),
            ((2, 3, 4), (2, 4, 5)),
            ((2, 3, 4), (4, 5)),
            ((3, 4), (2, 4, 5)),
            ((2, 1, 3, 4), (5, 4, 2)),
            ((0, 3), (3, 4)),
            ((2, 0), (0, 4)),
            ((0, 2, 3), (3, 4)),
        )
    ),
    case("matmul", normal(4, 3), normal(3, 4), layout="transposed"),
    case("matmul", normal(4, 3), normal(3, 4), layout="strided"),
    case("vecdot", normal(2, 3), normal(2, 3)),
    case("vecdot", normal(2, 3), normal(3, 2, 1), axis=0),
    *(case("tensordot", normal(2, 3, 4), normal(3, 4, 5), axes=axes) for axes in (2, ((1, 2), (0, 1)))),
    case("tensordot", normal(2, 3), normal(4), axes=0),
    case("tensordot", normal(2, 3, 4), normal(5, 2, 4), axes=((-1, 0), (2, 1))),
]

STANDARD_CASES = (*ELEMENTWISE, *STATISTICS, *SHAPING, *PRODUCTS)
