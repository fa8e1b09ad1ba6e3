"""conv2d and group_norm for arrays of CuPy, which has neither.

    import cupy
    from minidiff_cupy.functional import conv2d, group_norm

    y = group_norm(conv2d(x, weight, bias, padding=1), groups=8, activation="silu")

Images are (N, C, H, W). Results are channels-last in memory, and images that are go in without a copy. As CuPy's own
functions do, they work on the current device.
"""

from __future__ import annotations

from typing import Literal

from minidiff.backend import Array, backend_of
from minidiff_cupy import normalization
from minidiff_cupy.convolution import conv2d_geometry, ohwi
from minidiff_cupy.memory import channels_first, channels_last, served
from minidiff_cupy.products import Epilogue, contiguous, correlate

__all__ = ["conv2d", "group_norm"]

_Size = int | tuple[int, int]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
    shift: Array | None = None,
    residual: Array | None = None,
    activation: Literal["silu"] | None = None,
) -> Array:
    """Cross-correlate images with filters, and finish the result in the same kernel.

    The result is `activation(convolution + bias + shift + residual)`. Products of float32 are TF32, with eleven bits
    of precision, unless `minidiff.precision("exact")` holds; sums are float32 always.

    Parameters
    ----------
    x : array, shape (N, C, H, W)
        float32, float16 or bfloat16.
    weight : array, shape (O, C / groups, KH, KW)
    bias : array, shape (O,), optional
    stride, padding, dilation : int or (int, int)
        In pixels: between outputs, of zeros on each side, between taps.
    groups : int
        Divides the channels into parts that do not mix.
    shift : array, shape (N, O), optional
        Added to every pixel of an image, such as a time embedding.
    residual : array, shape of the result, optional
        Added.
    activation : "silu", optional

    Returns
    -------
    array, shape (N, O, (H + 2 padding - dilation (KH - 1) - 1) // stride + 1, likewise W)

    Raises
    ------
    TypeError
        If the dtypes differ or are not served.
    ValueError
        If shapes do not fit.
    """
    _check_dtypes("conv2d", x, weight, bias, shift, residual)
    shapes = f"x {tuple(x.shape)}, weight {tuple(weight.shape)}, groups {groups}"
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(f"conv2d: x must be (N, C, H, W) and weight (O, C / groups, KH, KW), but {shapes}")
    _check_activation("conv2d", activation)
    g = conv2d_geometry(x, weight, stride, padding, dilation, groups)
    if min(g.outputs) < 1:
        raise ValueError(f"conv2d: the filter is larger than the padded image ({shapes}, padding {padding})")
    n, o = x.shape[0], weight.shape[0]
    for name, array, shape in (
        ("bias", bias, (o,)),
        ("shift", shift, (n, o)),
        ("residual", residual, (n, o, *g.outputs)),
    ):
        if array is not None and tuple(array.shape) != shape:
            raise ValueError(
                f"conv2d: {name} must have shape {shape}, but has {tuple(array.shape)} ({shapes})"
            )
    xp = backend_of(x).xp
    epilogue = Epilogue(
        contiguous(xp, bias),
        shift=contiguous(xp, shift),
        residual=None if residual is None else channels_last(xp, residual),
        silu=activation == "silu",
    )
    return channels_first(correlate(xp, channels_last(xp, x), ohwi(xp, weight), g, epilogue))


def group_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    groups: int,
    eps: float = 1e-5,
    activation: Literal["silu"] | None = None,
) -> Array:
    """Normalize groups of channels to mean 0 and variance 1 in each sample [1]_, then scale and shift channels.

    Parameters
    ----------
    x : array, shape (N, C, *S)
        float32, float16 or bfloat16.
    weight, bias : array, shape (C,), optional
        1 and 0 by default.
    groups : int
        Divides C.
    eps : float
        Added to the variance.
    activation : "silu", optional
        Applied in the same pass.

    Returns
    -------
    array, like x

    Raises
    ------
    TypeError
        If the dtypes differ or are not served.
    ValueError
        If shapes do not fit.

    References
    ----------
    .. [1] Wu, He, "Group normalization", 2018, arXiv:1803.08494.
    """
    _check_dtypes("group_norm", x, weight, bias)
    _check_activation("group_norm", activation)
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ValueError(
            f"group_norm: {groups} groups do not divide the channels of x, shape {tuple(x.shape)}"
        )
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None and tuple(array.shape) != (x.shape[1],):
            raise ValueError(
                f"group_norm: {name} must have shape {(x.shape[1],)}, but has {tuple(array.shape)}"
            )
    xp = backend_of(x).xp
    result = normalization.group_norm(xp, x, weight, bias, groups=groups, eps=eps, activation=activation)
    if result is NotImplemented:
        raise ValueError(f"group_norm: the kernel does not serve arrays of shape {tuple(x.shape)}")
    return result[0]


def _check_dtypes(name: str, *arrays: Array | None) -> None:
    if not served(*arrays):
        given = ", ".join(a.dtype.name for a in arrays if a is not None)
        raise TypeError(
            f"{name}: all arrays must be float32, float16 or bfloat16, and alike, but they are {given}"
        )


def _check_activation(name: str, activation: str | None) -> None:
    if activation not in (None, "silu"):
        raise ValueError(f'{name}: activation must be "silu" or None, not {activation!r}')
