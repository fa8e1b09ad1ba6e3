"""GroupNorm, LayerNorm, RMSNorm and sums of columns as launch code asks for them."""

FORWARD, GRADIENT = "normalization.cu", "normalization_gradient.cu"
WIDTHS = {"float": 4, "half": 8, "bfloat16": 8}

INSTANTIATIONS = [
    *(
        (file, name.format(f"{kind}, {width}"), ())
        for kind, width in WIDTHS.items()
        for file, name in (
            (FORWARD, "normalize_held<{}, 1, true, true>"),
            (FORWARD, "normalize_held<{}, 4, true, true>"),
            (FORWARD, "normalize_held<{}, 16, true, true>"),
            (FORWARD, "moments_of_splits<{}, true>"),
            (FORWARD, "normalize_splits<{}, true, true>"),
            (GRADIENT, "pull_held<{}, 1, true, true>"),
            (GRADIENT, "pull_held<{}, 4, true, true>"),
            (GRADIENT, "pull_held<{}, 8, true, true>"),
            (GRADIENT, "sums_of_splits<{}, true, true>"),
            (GRADIENT, "pull_splits<{}, true, true>"),
        )
    ),
    (FORWARD, "normalize_held<float, 4, 8, true, false>", ()),
    (FORWARD, "normalize_held<half, 2, 16, true, true>", ()),
    (FORWARD, "normalize_held<bfloat16, 1, 2, true, true>", ()),
    (FORWARD, "normalize_held<bfloat16, 8, 2, false, false>", ()),
    (GRADIENT, "pull_held<float, 1, 8, true, true>", ()),
    (GRADIENT, "pull_held<half, 8, 2, false, false>", ()),
    *(
        ("sums.cu", f"sum_columns<{kinds}>", ())
        for kinds in ("float, float", "float, bfloat16", "half, half")
    ),
]
