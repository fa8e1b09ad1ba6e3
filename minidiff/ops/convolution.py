"""Convolution of images, as one matrix product per filter tap.

Three products carry both operations and all their gradients, each seen from another side:
`_correlate` makes outputs from inputs and filters, `_spread` makes inputs from outputs and
filters, `_filters` makes filters from inputs and outputs. A transposed convolution is the
first two exchanged. No buffer ever holds more than one tap's window of the padded batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from minidiff.autodiff import op
from minidiff.backend import Array
from minidiff.ops.support import (
    check_at_least,
    check_floating,
    check_images,
    check_shape,
    narrow,
    pair,
    widen,
    zeros,
)

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Where filter taps fall: everything in pixels, rows before columns.

    Attributes
    ----------
    inputs, outputs : tuple of int
        Height and width of the image that is correlated, and of the result.
    kernel, stride, padding, dilation : tuple of int
    groups : int
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the image with its border."""
        return self.inputs[0] + 2 * self.padding[0], self.inputs[1] + 2 * self.padding[1]

    @property
    def inside(self) -> tuple[Any, ...]:
        """Where the image lies within its border."""
        (h, w), (top, left) = self.inputs, self.padding
        return ..., slice(top, top + h), slice(left, left + w)

    def taps(self) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
        """Each filter tap, and the window of the padded image that it meets."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows, columns = (
                    slice(k * d, k * d + (n - 1) * s + 1, s)
                    for k, d, s, n in zip((i, j), self.dilation, self.stride, self.outputs, strict=True)
                )
                yield i, j, (..., rows, columns)


def conv2d_geometry(
    x: Array,
    weight: Array,
    bias: Any = None,
    shift: Any = None,
    residual: Any = None,
    *,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
) -> Geometry:
    """Check the arguments of `conv2d` and lay out its taps."""
    _check_arrays("conv2d", x, weight, bias=bias, shift=shift, residual=residual)
    (n, c, h, w), (o, c_weight, kh, kw) = x.shape, weight.shape
    shapes = f"(x {tuple(x.shape)}, weight {tuple(weight.shape)}, groups {groups})"
    if groups < 1 or c % groups or o % groups:
        raise ValueError(f"conv2d: {groups} groups do not divide {c} input and {o} output channels {shapes}")
    if c != c_weight * groups:
        raise ValueError(f"conv2d: x has {c} channels but weight expects {c_weight * groups} {shapes}")
    check_shape("conv2d", "bias", bias, (o,), "for the output channels")
    s, p, d = _check_steps("conv2d", stride, padding, dilation)
    oh, ow = (
        (n + 2 * q - e * (k - 1) - 1) // t + 1
        for n, q, e, k, t in zip((h, w), p, d, (kh, kw), s, strict=True)
    )
    if oh < 1 or ow < 1:
        raise ValueError(
            f"conv2d: the filter is larger than the padded image {shapes[:-1]}, padding {p}, dilation {d})"
        )
    check_shape("conv2d", "shift", shift, (n, o), "for the images and the output channels")
    check_shape("conv2d", "residual", residual, (n, o, oh, ow), "as the result has")
    return Geometry((h, w), (oh, ow), (kh, kw), s, p, d, groups)


def conv_transpose2d_geometry(
    x: Array,
    weight: Array,
    bias: Any,
    stride: Size,
    padding: Size,
    output_padding: Size,
    dilation: Size,
    groups: int,
) -> Geometry:
    """Check the arguments of `conv_transpose2d`; its inputs are the outputs of the convolution it transposes."""
    _check_arrays("conv_transpose2d", x, weight, bias=bias)
    (_, c, h, w), (c_weight, o, kh, kw) = x.shape, weight.shape
    shapes = f"(x {tuple(x.shape)}, weight {tuple(weight.shape)}, groups {groups})"
    if groups < 1 or c % groups:
        raise ValueError(f"conv_transpose2d: {groups} groups do not divide {c} input channels {shapes}")
    if c != c_weight:
        raise ValueError(f"conv_transpose2d: x has {c} channels but weight expects {c_weight} {shapes}")
    check_shape("conv_transpose2d", "bias", bias, (o * groups,), "for the output channels")
    s, p, d = _check_steps("conv_transpose2d", stride, padding, dilation)
    extra = pair(output_padding)
    if any(not 0 <= e < max(t, q) for e, t, q in zip(extra, s, d, strict=True)):
        raise ValueError(f"conv_transpose2d: output_padding {extra} must be below stride {s} or dilation {d}")
    oh, ow = (
        (n - 1) * t - 2 * q + f * (k - 1) + e + 1
        for n, t, q, f, k, e in zip((h, w), s, p, d, (kh, kw), extra, strict=True)
    )
    if oh < 1 or ow < 1:
        raise ValueError(f"conv_transpose2d: the result has no pixels left {shapes[:-1]}, padding {p})")
    return Geometry((oh, ow), (h, w), (kh, kw), s, p, d, groups)


def _check_arrays(name: str, x: Array, weight: Array, **added: Any) -> None:
    check_floating(name, x=x, weight=weight, **added)
    check_images(name, x)
    if len(weight.shape) != 4:
        raise ValueError(f"{name}: expected a weight of four axes, got shape {tuple(weight.shape)}")


def _check_steps(name: str, stride: Size, padding: Size, dilation: Size) -> tuple[tuple[int, int], ...]:
    s, p, d = pair(stride), pair(padding), pair(dilation)
    check_at_least(name, 1, stride=s, dilation=d)
    check_at_least(name, 0, padding=p)
    return s, p, d


def _in_groups(xp: Any, x: Array, groups: int) -> Array:
    """(N, C, H, W) -> (N, G, C / G, H * W)."""
    n, c, h, w = x.shape
    return xp.reshape(x, (n, groups, c // groups, h * w))


def _with_border(xp: Any, x: Array, g: Geometry) -> Array:
    padded = zeros(xp, (*x.shape[:2], *g.padded), x)
    padded[g.inside] = x
    return padded


def _tap(xp: Any, weight: Array, i: int, j: int, groups: int) -> Array:
    """One tap of filters (O, C / G, KH, KW) as matrices (G, O / G, C / G)."""
    return xp.reshape(weight[:, :, i, j], (groups, weight.shape[0] // groups, weight.shape[1]))


def _correlate(xp: Any, x: Array, weight: Array, g: Geometry) -> Array:
    """Images (N, C, *inputs) * filters (O, C / G, KH, KW) -> (N, O, *outputs)."""
    padded = _with_border(xp, x, g)
    n, o = x.shape[0], weight.shape[0]
    y = zeros(xp, (n, g.groups, o // g.groups, g.outputs[0] * g.outputs[1]), x)
    for i, j, window in g.taps():
        y += xp.matmul(_tap(xp, weight, i, j, g.groups), _in_groups(xp, padded[window], g.groups))
    return xp.reshape(y, (n, o, *g.outputs))


def _spread(xp: Any, y: Array, weight: Array, g: Geometry) -> Array:
    """Images (N, O, *outputs) * filters (O, C / G, KH, KW) -> (N, C, *inputs): the transpose of `_correlate`."""
    n, c = y.shape[0], weight.shape[1] * g.groups
    padded = zeros(xp, (n, c, *g.padded), y)
    grouped = _in_groups(xp, y, g.groups)
    for i, j, window in g.taps():
        part = xp.matmul(xp.matrix_transpose(_tap(xp, weight, i, j, g.groups)), grouped)
        padded[window] += xp.reshape(part, (n, c, *g.outputs))
    return padded[g.inside]


def _filters(xp: Any, x: Array, y: Array, g: Geometry) -> Array:
    """Images (N, C, *inputs) and (N, O, *outputs) -> the filters (O, C / G, KH, KW) that join them."""
    padded = _with_border(xp, x, g)
    c, o = x.shape[1] // g.groups, y.shape[1]
    grouped = _in_groups(xp, y, g.groups)
    taps = [
        xp.reshape(
            xp.sum(xp.matmul(grouped, xp.matrix_transpose(_in_groups(xp, padded[window], g.groups))), axis=0),
            (o, c),
        )
        for _, _, window in g.taps()
    ]
    return xp.reshape(xp.stack(taps, axis=-1), (o, c, *g.kernel))


def _plus(xp: Any, y: Array, bias: Any, shift: Any = None, residual: Any = None) -> Array:
    """Images (N, O, H, W) + (O,) + (N, O) + (N, O, H, W), each of the latter optional."""
    for added, shape in ((bias, (-1, 1, 1)), (shift, (*y.shape[:2], 1, 1)), (residual, y.shape)):
        if added is not None:
            y = y + xp.reshape(widen(xp, added), shape)
    return y


Thunk = Callable[[], Array]


@op(check=conv2d_geometry)
def conv2d(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    shift: Any = None,
    residual: Any = None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """Cross-correlate images with filters, and add what is given to the result.

    Parameters
    ----------
    x : array, shape (N, C, H, W)
    weight : array, shape (O, C / groups, KH, KW)
    bias : array, shape (O,), optional
    shift : array, shape (N, O), optional
        Added to every pixel of an image, such as a time embedding.
    residual : array, shape of the result, optional
        Added, such as what skips a block.
    stride, padding, dilation : int or (int, int)
        In pixels: between outputs, of zeros on each side, between taps.
    groups : int
        Divides the channels into parts that do not mix.

    Returns
    -------
    array, shape (N, O, (H + 2 padding - dilation (KH - 1) - 1) // stride + 1, likewise W)

    Raises
    ------
    ValueError
        If channels or shapes do not fit, or the filter is larger than the padded image.
    TypeError
        If the dtypes differ or are not floating.
    """
    g = conv2d_geometry(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = _plus(xp, _correlate(xp, widen(xp, x), widen(xp, weight), g), bias, shift, residual)

    def vjp(dy: Array) -> tuple[Thunk, ...]:
        wide = widen(xp, dy)
        return (
            lambda: _spread(xp, wide, widen(xp, weight), g),
            lambda: _filters(xp, widen(xp, x), wide, g),
            lambda: xp.sum(wide, axis=(0, 2, 3)),
            lambda: xp.sum(wide, axis=(2, 3)),
            lambda: dy,
        )

    return narrow(xp, y, x), vjp


@op(check=conv_transpose2d_geometry)
def conv_transpose2d(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Any:
    """Spread images through filters: the transpose of `conv2d` with the same arguments.

    Parameters
    ----------
    x : array, shape (N, C, H, W)
    weight : array, shape (C, O / groups, KH, KW)
    bias : array, shape (O,), optional
    stride, padding, dilation : int or (int, int)
        Of the convolution that this transposes, in pixels.
    output_padding : int or (int, int)
        Pixels added at the bottom and right, to choose among the sizes that convolve to H, W.
    groups : int

    Returns
    -------
    array, shape (N, O, (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1, likewise W)

    Raises
    ------
    ValueError
        If channels do not fit, or `output_padding` is not below stride or dilation.
    TypeError
        If the dtypes differ or are not floating.
    """
    g = conv_transpose2d_geometry(x, weight, bias, stride, padding, output_padding, dilation, groups)
    y = _plus(xp, _spread(xp, widen(xp, x), widen(xp, weight), g), bias)

    def vjp(dy: Array) -> tuple[Thunk, Thunk, Thunk]:
        dy = widen(xp, dy)
        return (
            lambda: _correlate(xp, dy, widen(xp, weight), g),
            lambda: _filters(xp, dy, widen(xp, x), g),
            lambda: xp.sum(dy, axis=(0, 2, 3)),
        )

    return narrow(xp, y, x), vjp
