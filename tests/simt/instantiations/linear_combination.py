"""Linear combinations, for every dtype and width of vectors."""

from __future__ import annotations

INSTANTIATIONS = [
    ("linear_combination.cu", f"linear_combination<{number}, {width}>", ())
    for number, most in (("float", 4), ("half", 8), ("bfloat16", 8))
    for width in (1, 2, 4, 8)
    if width <= most
]
