"""The gradient of a convolution's filters by wgmma, as launch code asks for it."""

from minidiff_cupy.products import _HOPPER_FILTERS, _listed

INSTANTIATIONS = [
    (
        "conv_filters_wgmma.cu",
        f"filters_between<{t}, {_listed(tile.rows, tile.columns, tile.stages)}>",
        (),
        ("sm_90a",),
    )
    for t in ("half", "bfloat16")
    for tile in _HOPPER_FILTERS
]
