"""GroupNorm, LayerNorm, RMSNorm and sums of columns as launch code asks for them."""

FILE = "normalization.cu"
WIDTHS = {"float": 4, "half": 8, "bfloat16": 8}

INSTANTIATIONS = [
    *(
        (FILE, name.format(f"{kind}, {width}"), ())
        for kind, width in WIDTHS.items()
        for name in (
            "normalize_held<{}, 1, true, true>",
            "normalize_held<{}, 4, true, true>",
            "normalize_held<{}, 16, true, true>",
            "moments_of_splits<{}, true>",
            "normalize_splits<{}, true, true>",
            "pull_held<{}, 1, true, true>",
            "pull_held<{}, 4, true, true>",
            "pull_held<{}, 8, true, true>",
            "sums_of_splits<{}, true, true>",
            "pull_splits<{}, true, true>",
        )
    ),
    (FILE, "normalize_held<float, 4, 8, true, false>", ()),
    (FILE, "normalize_held<half, 2, 16, true, true>", ()),
    (FILE, "normalize_held<bfloat16, 1, 2, true, true>", ()),
    (FILE, "normalize_held<bfloat16, 8, 2, false, false>", ()),
    (FILE, "pull_held<float, 1, 8, true, true>", ()),
    (FILE, "pull_held<half, 8, 2, false, false>", ()),
    *(
        ("sums.cu", f"sum_columns<{kinds}>", ())
        for kinds in ("float, float", "float, bfloat16", "half, half")
    ),
]
