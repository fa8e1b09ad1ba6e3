"""Every variant that the launch code chooses, where it does."""

from __future__ import annotations

from minidiff_cupy.attention import WIDTHS, Variant, variant_for

KERNELS = ("answer", "pull_queries", "pull_keys")
TYPES = ("float", "half", "bfloat16")
MODERN = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100")


def variants(capability: int) -> set[Variant]:
    """Of a GPU of this capability."""
    return {variant_for(t, w, capability, exact) for t in TYPES for w in WIDTHS for exact in (False, True)}


INSTANTIATIONS = [
    ("attention.cu", f"{name}{variant}", (), targets)
    for capability, targets in ((75, ("sm_75",)), (80, MODERN))
    for variant in sorted(variants(capability), key=str)
    for name in KERNELS
] + [("attention.cu", f"row_products<{t}>", ()) for t in TYPES]
