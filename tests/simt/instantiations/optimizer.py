"""Every kernel of the optimizers, for every dtype of parameters."""

from __future__ import annotations

INSTANTIATIONS = [
    ("optimizer.cu", f"{name}<{number}>", ("--fmad=false",))
    for name in ("sgd", "momentum", "adam", "ema", "square_sum", "clip")
    for number in ("float", "half", "bfloat16")
] + [("optimizer.cu", "sum_of_partials", ("--fmad=false",))]
