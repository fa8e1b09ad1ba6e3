"""The error function, which the standard does not have."""

from __future__ import annotations

import math
from typing import Any

from minidiff.autodiff import op
from minidiff.ops.support import narrow, widen

# W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of
# Computation 23 (1969), pages 631 to 637: coefficients of highest degree first.
_CENTRE = (
    (
        1.85777706184603153e-1,
        3.16112374387056560,
        113.864154151050156,
        377.485237685302021,
        3209.37758913846947,
    ),
    (1.0, 23.6012909523441209, 244.024637934444173, 1282.61652607737228, 2844.23683343917062),
)
_SLOPE = (
    (2.15311535474403846e-8, 0.564188496988670089, 8.88314979438837594, 66.1191906371416295, 298.635138197400131,
     881.952221241769090, 1712.04761263407058, 2051.07837782607147, 1230.33935479799725),
    (1.0, 15.7449261107098347, 117.693950891312499, 537.181101862009858, 1621.38957456669019,
     3290.79923573345963, 4362.61909014324716, 3439.36767414372164, 1230.33935480374942),
)  # fmt: skip
_TAIL = (
    (1.63153871373020978e-2, 0.305326634961232344, 0.360344899949804439, 0.125781726111229246,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 0.527905102951428413, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip


def _rational(x: Any, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Any:
    top, bottom = (_horner(x, side) for side in coefficients)
    return top / bottom


def _horner(x: Any, coefficients: tuple[float, ...]) -> Any:
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


@op
def erf(xp: Any, x: Any, /) -> Any:
    """The error function, within 1e-15 in float64 [1]_.

    References
    ----------
    .. [1] Cody, "Rational Chebyshev approximations for the error function", Mathematics of
       Computation 23 (1969).
    """
    z = widen(xp, x)
    a = xp.abs(z)
    ones = xp.ones_like(a)
    near, far = a <= 0.46875, a > 4.0
    centre = z * _rational(xp.where(near, z * z, ones), _CENTRE)
    middle = xp.where(near | far, ones, a)
    inverse = 1 / xp.where(far, a * a, 16 * ones)
    slope = xp.where(
        far,
        (1 / math.sqrt(math.pi) - inverse * _rational(inverse, _TAIL)) / xp.where(far, a, ones),
        _rational(middle, _SLOPE),
    )
    bell = xp.exp(-xp.where(a < 9.0, a * a, 81 * ones))
    y = xp.where(near, centre, xp.sign(z) * (1 - bell * slope))
    return narrow(xp, y, x), lambda dy: (dy * bell * (2 / math.sqrt(math.pi)),)
