"""An Array API namespace whose functions can be differentiated, and what networks need beyond the standard.

Names and signatures are the standard's where it has them. Every function takes arrays of
any Array API library, and `Tensor`s, whose namespace this is.
"""

import math
from typing import Any

from minidiff.autodiff import stop_gradient
from minidiff.backend import get_backend as _get_backend
from minidiff.ops import constants as _constants
from minidiff.ops.activation import gelu, log_softmax, relu, sigmoid, silu, softmax
from minidiff.ops.attention import scaled_dot_product_attention
from minidiff.ops.constants import finfo, iinfo, isdtype, result_type
from minidiff.ops.convolution import conv2d, conv_transpose2d
from minidiff.ops.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from minidiff.ops.dropout import dropout
from minidiff.ops.elementwise import (
    abs,
    acos,
    add,
    asin,
    astype,
    atan,
    atan2,
    clip,
    cos,
    cosh,
    divide,
    exp,
    expm1,
    linear_combination,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    maximum,
    minimum,
    multiply,
    negative,
    pow,
    reciprocal,
    sin,
    sinh,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    where,
)
from minidiff.ops.indexing import embedding, take, take_along_axis
from minidiff.ops.linalg import linear, matmul, tensordot, vecdot
from minidiff.ops.loss import binary_cross_entropy_with_logits, cross_entropy, huber_loss, l1_loss, mse_loss
from minidiff.ops.normalization import group_norm, layer_norm, rms_norm
from minidiff.ops.resampling import avg_pool2d, max_pool2d, upsample2d
from minidiff.ops.shaping import (
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    getitem,
    matrix_transpose,
    moveaxis,
    pad,
    permute_dims,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    tile,
    tril,
    triu,
    unstack,
)
from minidiff.ops.special import erf
from minidiff.ops.statistics import cumulative_sum, max, mean, min, std, sum, var
from minidiff.ops.support import find_dtype as _find_dtype

__all__ = [
    "abs", "acos", "add", "arange", "asarray", "asin", "astype", "atan", "atan2", "avg_pool2d",
    "binary_cross_entropy_with_logits", "broadcast_arrays", "broadcast_to", "clip", "concat", "conv2d",
    "conv_transpose2d", "cos", "cosh", "cross_entropy", "cumulative_sum", "divide", "dropout", "e",
    "embedding", "empty", "empty_like", "erf", "exp", "expand_dims", "expm1", "eye", "finfo", "flip",
    "full", "full_like", "gelu", "getitem", "group_norm", "huber_loss", "iinfo", "inf", "isdtype",
    "l1_loss", "layer_norm", "linear", "linear_combination", "linspace", "log", "log1p", "log2", "log10",
    "log_softmax",
    "logaddexp", "matmul", "matrix_transpose", "max", "max_pool2d", "maximum", "mean", "min", "minimum",
    "moveaxis", "mse_loss", "multiply", "nan", "negative", "newaxis", "ones", "ones_like", "pad",
    "permute_dims", "pi", "pow", "reciprocal", "relu", "repeat", "reshape", "result_type", "rms_norm",
    "roll", "scaled_dot_product_attention", "sigmoid", "silu", "sin", "sinh", "softmax", "sqrt", "square",
    "squeeze", "stack", "std", "stop_gradient", "subtract", "sum", "take", "take_along_axis", "tan",
    "tanh", "tensordot", "tile", "tril", "triu", "unstack", "upsample2d", "var", "vecdot", "where",
    "zeros", "zeros_like",
]  # fmt: skip

e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi

_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64",
)  # fmt: skip
__all__.extend((*_constants.NAMES, *_DTYPES))


def __getattr__(name: str) -> Any:
    """The functions without a gradient (`ops.constants`), and dtypes: `ops.float32` is understood for every library."""
    if name in _constants.FUNCTIONS:
        return _constants.FUNCTIONS[name]
    if name in _DTYPES:
        return _find_dtype(_get_backend("cpu").xp, name)
    raise AttributeError(f"module 'minidiff.ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
