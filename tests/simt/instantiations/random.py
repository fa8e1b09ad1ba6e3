"""Words, and normal numbers of every dtype."""

from __future__ import annotations

INSTANTIATIONS = [("random.cu", "random_words", ())] + [
    ("random.cu", f"random_normal<{number}>", ()) for number in ("float", "double", "half", "bfloat16")
]
