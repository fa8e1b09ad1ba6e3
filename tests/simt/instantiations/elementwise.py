"""Element-wise functions, resampling, softmax and embedding as launch code asks for them."""

INSTANTIATIONS = [
    *(
        ("elementwise.cu", f"elementwise<{rest}>", ())
        for rest in (
            "Copy, bfloat16, 8, 2, int",
            "Add, float, 4, 1, int",
            "Add, bfloat16, 8, 3, int",
            "Add, float, 1, 6, long long",
            "MultiplyNumber, half, 8, 1, int",
            "Clip, float, 4, 1, int",
            "PullClip, half, 8, 1, int",
            "Silu, bfloat16, 8, 1, int",
            "PullSilu, bfloat16, 8, 1, long long",
            "PullGelu, float, 4, 1, int",
            "PullGeluTanh, half, 8, 3, int",
        )
    ),
    *(
        ("resampling.cu", f"{name}>", ())
        for name in (
            "resample<Covering, float, 4",
            "resample<Windows, bfloat16, 8",
            "resample<Lines, half, 8",
            "resample<LinesBack, float, 1",
            "pool_max<bfloat16, 8",
            "pull_max<half, 8",
            "pull_max<float, 4",
        )
    ),
    *(
        ("softmax.cu", f"{name}>", ())
        for name in (
            "softmax<float, 4, false",
            "softmax<bfloat16, 8, true",
            "pull_softmax<half, 8, false",
            "pull_softmax<float, 4, true",
        )
    ),
    ("embedding.cu", "take_rows<float>", ()),
    ("embedding.cu", "add_rows<bfloat16>", ()),
]
