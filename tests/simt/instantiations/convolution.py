"""Convolution and linear as launch code asks for them: every tile of every product, on the devices that it is for."""

from minidiff_cupy.products import _HOPPER, _MEDIUM, _NARROW, _SQUARE, _TILES, _listed

TENSOR_CORES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100")
TYPES = {"float": 4, "half": 8, "bfloat16": 8}  # and how many of them are 16 bytes

# Type, whether its products are exact, and where.
ARITHMETIC = (
    ("float", True, ("sm_75", *TENSOR_CORES)),
    ("float", False, TENSOR_CORES),
    ("half", False, ("sm_75", *TENSOR_CORES)),
    ("bfloat16", False, TENSOR_CORES),
    ("bfloat16", True, ("sm_75",)),
)

INSTANTIATIONS = [
    *(
        (
            "conv_correlate.cu",
            f"correlate<{t}, {_listed(tile.rows, tile.columns, *tile.warp, tile.stages, exact, vector, extras)}>",
            (),
            targets,
        )
        for t, exact, targets in ARITHMETIC
        for tile in ((_MEDIUM, _NARROW) if exact else _TILES)
        for vector, extras in ((TYPES[t], False), (TYPES[t], True), (1, False))
    ),
    *(
        (
            "conv_correlate_wgmma.cu",
            f"correlate<{t}, {_listed(tile.rows, tile.columns, tile.stages, TYPES[t], extras)}>",
            (),
            ("sm_90a",),
        )
        for t in TYPES
        for tile in _HOPPER
        for extras in (False, True)
    ),
    *(
        (
            "conv_filters.cu",
            f"filters_between<{t}, {_listed(tile.rows, tile.columns, *tile.warp, tile.stages, exact, vector)}>",
            (),
            targets,
        )
        for t, exact, targets in ARITHMETIC
        for tile in ((_MEDIUM,) if exact else (_SQUARE, _MEDIUM))
        for vector in (TYPES[t], 1)
    ),
    *(("conv_finish.cu", f"finish<{t}>") for t in TYPES),
]
