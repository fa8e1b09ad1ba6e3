"""Cases of the functions that networks need beyond the standard."""

from __future__ import annotations

from minidiff.testing.case import Case, Seed, booleans, case, labels, normal, probabilities

__all__ = ["NETWORK_CASES"]

ACTIVATIONS = ("relu", "sigmoid", "silu", "gelu")
LOSSES = ("mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits")
REDUCTIONS = ("mean", "sum", "none")

IMAGES, FILTERS, BIAS = normal(2, 3, 5, 6), normal(4, 3, 3, 3), normal(4)
SHIFT, RESIDUAL = normal(2, 4), normal(2, 4, 5, 6)

CONVOLUTION: list[Case] = [
    case("conv2d", IMAGES, FILTERS),
    case("conv2d", IMAGES, FILTERS, BIAS),
    *(
        case("conv2d", IMAGES, FILTERS, BIAS, stride=stride, padding=padding)
        for stride in (1, 2, (2, 1))
        for padding in (0, 1, 2, (1, 0))
        if (stride, padding) != (1, 0)
    ),
    case("conv2d", normal(1, 3, 7, 9), FILTERS, BIAS, stride=3, padding=1, note="odd sides"),
    case("conv2d", normal(2, 3, 8, 8), normal(4, 3, 4, 4), BIAS, stride=2, padding=1, note="4x4"),
    case("conv2d", IMAGES, normal(4, 3, 1, 1), BIAS, note="1x1"),
    case("conv2d", IMAGES, normal(4, 3, 1, 1), BIAS, stride=2, note="1x1"),
    case("conv2d", IMAGES, normal(4, 3, 1, 1), BIAS, padding=1, note="1x1"),
    case("conv2d", IMAGES, normal(4, 3, 2, 3), BIAS, padding=(1, 1), note="oblong"),
    case("conv2d", IMAGES, normal(4, 3, 5, 6), BIAS, note="filter as large as the image"),
    case("conv2d", normal(2, 4, 5, 5), normal(6, 2, 3, 3), normal(6), padding=1, groups=2),
    case("conv2d", normal(2, 4, 5, 5), normal(4, 1, 3, 3), BIAS, padding=1, groups=4, note="depthwise"),
    case("conv2d", normal(2, 2, 5, 5), normal(4, 1, 3, 3), stride=2, groups=2),
    case("conv2d", normal(2, 3, 7, 7), FILTERS, BIAS, padding=2, dilation=2),
    case("conv2d", normal(2, 3, 7, 8), FILTERS, stride=2, padding=1, dilation=(1, 2)),
    case("conv2d", normal(0, 3, 5, 6), FILTERS, BIAS, padding=1),
    case("conv2d", normal(0, 4, 5, 5), normal(4, 1, 3, 3), stride=2, groups=4),
    case("conv2d", normal(5, 6, 9, 8), normal(7, 6, 3, 3), normal(7), padding=1, note="more of everything"),
    *(
        case("conv2d", IMAGES, FILTERS, BIAS, padding=1, stride=stride, layout=layout)
        for layout in ("transposed", "strided", "channels last")
        for stride in (1, 2)
    ),
    case("conv2d", IMAGES, normal(4, 3, 1, 1), BIAS, layout="channels last"),
    case("conv2d", IMAGES, FILTERS, BIAS, SHIFT, padding=1, note="shift"),
    case("conv2d", IMAGES, FILTERS, None, None, RESIDUAL, padding=1, note="residual"),
    *(
        case("conv2d", IMAGES, FILTERS, BIAS, SHIFT, RESIDUAL, padding=1, layout=layout, note="both")
        for layout in ("contiguous", "transposed", "strided", "channels last")
    ),
    case("conv2d", IMAGES, normal(4, 3, 1, 1), BIAS, SHIFT, RESIDUAL, note="both, 1x1"),
    case(
        "conv2d",
        normal(2, 4, 5, 5),
        normal(6, 2, 3, 3),
        None,
        normal(2, 6),
        normal(2, 6, 3, 3),
        stride=2,
        padding=1,
        groups=2,
        note="both",
    ),
    case(
        "conv2d", normal(0, 3, 5, 6), FILTERS, BIAS, normal(0, 4), normal(0, 4, 5, 6), padding=1, note="both"
    ),
]

TRANSPOSED_CONVOLUTION: list[Case] = [
    case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3)),
    *(
        case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3), BIAS, stride=stride, padding=padding)
        for stride in (1, 2, (2, 1))
        for padding in (0, 1, (1, 0))
    ),
    case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3), BIAS, padding=2),
    case("conv_transpose2d", IMAGES, normal(3, 4, 4, 4), BIAS, stride=2, padding=1, note="4x4"),
    case("conv_transpose2d", IMAGES, normal(3, 4, 2, 2), BIAS, stride=2, note="2x2"),
    case("conv_transpose2d", IMAGES, normal(3, 4, 1, 1), BIAS, note="1x1"),
    case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3), BIAS, stride=2, padding=1, output_padding=1),
    case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3), BIAS, stride=(2, 3), output_padding=(1, 2)),
    case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3), BIAS, padding=1, dilation=2),
    case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3), stride=2, output_padding=(0, 1), dilation=(1, 2)),
    case("conv_transpose2d", normal(2, 4, 3, 3), normal(4, 3, 3, 3), normal(6), stride=2, groups=2),
    case("conv_transpose2d", normal(2, 4, 3, 3), normal(4, 1, 3, 3), BIAS, groups=4, note="depthwise"),
    case("conv_transpose2d", normal(0, 3, 5, 6), normal(3, 4, 3, 3), BIAS, stride=2),
    *(
        case("conv_transpose2d", IMAGES, normal(3, 4, 3, 3), BIAS, stride=2, layout=layout)
        for layout in ("transposed", "strided", "channels last")
    ),
]

NORMALIZATION: list[Case] = [
    *(case("group_norm", normal(2, 6, 3, 5), normal(6), normal(6), groups=groups) for groups in (1, 2, 6)),
    case("group_norm", normal(2, 6, 3, 5), groups=3),
    case("group_norm", normal(2, 6, 3, 5), normal(6), groups=3, note="without bias"),
    case("group_norm", normal(2, 6, 3, 5), None, normal(6), groups=3, note="without weight"),
    case("group_norm", normal(2, 6, 3, 5), normal(6), normal(6), groups=2, eps=0.1),
    *(
        case("group_norm", normal(*shape), normal(4), normal(4), groups=2, activation=activation)
        for shape in ((2, 4, 3, 3), (3, 4), (2, 4, 5), (2, 4, 2, 3, 2), (0, 4, 3, 3))
        for activation in (None, "silu")
    ),
    case("group_norm", normal(2, 4, 3, 3), groups=2, activation="silu"),
    *(
        case("group_norm", normal(2, 4, 4, 3), normal(4), normal(4), groups=2, activation=act, layout=layout)
        for layout in ("transposed", "strided", "channels last")
        for act in (None, "silu")
    ),
    case("layer_norm", normal(2, 3, 4), normal(4), normal(4)),
    case("layer_norm", normal(2, 3, 4)),
    case("layer_norm", normal(2, 3, 4), normal(4), eps=0.1),
    case("layer_norm", normal(2, 3, 4, 2), normal(3, 4, 2), normal(3, 4, 2), axis=(1, 2, 3)),
    case("layer_norm", normal(2, 3, 4, 2), normal(4, 2), axis=(-1, -2)),
    case("layer_norm", normal(0, 3, 4), normal(4), normal(4)),
    case("layer_norm", normal(6, 4), normal(4), normal(4), layout="transposed"),
    case("rms_norm", normal(2, 3, 4), normal(4)),
    case("rms_norm", normal(2, 3, 4)),
    case("rms_norm", normal(2, 3, 4), normal(3, 4), axis=(1, 2), eps=0.1),
    case("rms_norm", normal(0, 4), normal(4)),
    case("rms_norm", normal(6, 4), normal(4), layout="strided"),
]

ATTENTION: list[Case] = [
    case("scaled_dot_product_attention", normal(2, 3, 5, 4), normal(2, 3, 5, 4), normal(2, 3, 5, 4)),
    case("scaled_dot_product_attention", normal(5, 4), normal(3, 4), normal(3, 2), note="cross lengths"),
    case(
        "scaled_dot_product_attention",
        normal(2, 1, 5, 4),
        normal(3, 6, 4),
        normal(3, 6, 2),
        note="heads broadcast",
    ),
    case("scaled_dot_product_attention", normal(2, 5, 4), normal(2, 5, 4), normal(2, 5, 4), causal=True),
    case("scaled_dot_product_attention", normal(5, 4), normal(7, 4), normal(7, 4), causal=True),
    case("scaled_dot_product_attention", normal(2, 5, 4), normal(2, 3, 4), normal(2, 3, 4), scale=0.3),
    *(
        case(
            "scaled_dot_product_attention",
            normal(2, 3, 4),
            normal(2, 5, 4),
            normal(2, 5, 4),
            mask,
            causal=causal,
        )
        for mask in (booleans(3, 5), booleans(2, 3, 5), booleans(5), normal(3, 5), normal(2, 1, 5))
        for causal in (False, True)
    ),
    case("scaled_dot_product_attention", normal(0, 5, 4), normal(0, 3, 4), normal(0, 3, 4)),
    case("scaled_dot_product_attention", normal(4, 4), normal(4, 4), normal(4, 4), layout="transposed"),
    case("scaled_dot_product_attention", normal(4, 4), normal(4, 4), normal(4, 4), layout="strided"),
]

RESAMPLING: list[Case] = [
    *(
        case(name, normal(2, 3, *sides), kernel, stride=stride)
        for name in ("max_pool2d", "avg_pool2d")
        for sides, kernel, stride in (
            ((4, 6), 2, None),
            ((5, 7), 2, None),
            ((5, 6), 3, 1),
            ((5, 6), (2, 3), (1, 2)),
            ((5, 5), 2, 3),
            ((3, 3), 3, None),
            ((3, 4), 1, None),
        )
    ),
    *(case(name, normal(0, 3, 4, 4), 2) for name in ("max_pool2d", "avg_pool2d")),
    *(case(name, normal(2, 3, 4, 4), 2, layout="channels last") for name in ("max_pool2d", "avg_pool2d")),
    *(
        case("upsample2d", normal(2, 3, 3, 2), scale, mode=mode)
        for mode in ("nearest", "bilinear")
        for scale in (1, 2, 3)
    ),
    *(case("upsample2d", normal(0, 3, 2, 2), 2, mode=mode) for mode in ("nearest", "bilinear")),
    *(
        case("upsample2d", normal(2, 3, 4, 3), 2, mode=mode, layout=layout)
        for mode in ("nearest", "bilinear")
        for layout in ("strided", "channels last")
    ),
]

LOSS: list[Case] = [
    *(
        case(name, normal(3, 4), probabilities(3, 4), reduction=reduction)
        for name in LOSSES
        for reduction in REDUCTIONS
    ),
    *(case(name, normal(2, 3, 2, 2), probabilities(2, 3, 2, 2), layout="channels last") for name in LOSSES),
    *(case(name, normal(0, 4), probabilities(0, 4), reduction="sum") for name in LOSSES),
    case("huber_loss", normal(3, 4), normal(3, 4), delta=0.4),
    *(
        case("cross_entropy", normal(4, 5), target, reduction=reduction)
        for target in (labels(5, 4), probabilities(4, 5))
        for reduction in REDUCTIONS
    ),
    *(
        case("cross_entropy", normal(2, 5, 3, 2), target, reduction=reduction)
        for target in (labels(5, 2, 3, 2), probabilities(2, 5, 3, 2))
        for reduction in REDUCTIONS
    ),
    case("cross_entropy", normal(2, 3, 5), labels(5, 2, 3), axis=-1),
    case("cross_entropy", normal(2, 3, 5), probabilities(2, 3, 5), axis=-1),
    case("cross_entropy", normal(5), labels(5), axis=0, note="one position"),
    case("cross_entropy", normal(0, 5), labels(5, 0), reduction="sum"),
    case("cross_entropy", normal(0, 5), labels(5, 0), reduction="none"),
]

OTHERS: list[Case] = [
    *(case(name, normal(2, 3)) for name in ACTIVATIONS),
    *(case(name, normal(0, 3)) for name in ACTIVATIONS),
    *(case(name, normal(4, 3), layout="strided") for name in ACTIVATIONS),
    case("gelu", normal(2, 3), approximate="tanh"),
    *(case(name, normal(2, 3, 4), axis=axis) for name in ("softmax", "log_softmax") for axis in (0, 1, -1)),
    *(case(name, normal(0, 4)) for name in ("softmax", "log_softmax")),
    *(case(name, normal(3, 4), axis=0, layout="transposed") for name in ("softmax", "log_softmax")),
    case("linear", normal(2, 3), normal(4, 3), normal(4)),
    case("linear", normal(2, 3), normal(4, 3)),
    case("linear", normal(3), normal(4, 3), normal(4)),
    case("linear", normal(2, 5, 3), normal(4, 3), normal(4)),
    case("linear", normal(0, 3), normal(4, 3), normal(4)),
    case("linear", normal(4, 3), normal(4, 3), normal(4), layout="transposed"),
    case("embedding", labels(4, 2, 3), normal(4, 5), note="repeated"),
    case("embedding", labels(4, 7), normal(4, 5), note="repeated"),
    case("embedding", labels(4), normal(4, 5), note="one index"),
    case("embedding", labels(4, 0), normal(4, 5)),
    case("dropout", normal(3, 4), 0.5, rng=Seed(1)),
    case("dropout", normal(3, 4), 0.0, rng=Seed(1)),
    case("dropout", normal(0, 4), 0.5, rng=Seed(1)),
]

NETWORK_CASES = (
    *CONVOLUTION,
    *TRANSPOSED_CONVOLUTION,
    *NORMALIZATION,
    *ATTENTION,
    *RESAMPLING,
    *LOSS,
    *OTHERS,
)
