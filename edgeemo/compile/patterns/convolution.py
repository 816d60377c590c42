"""Conv over one or two dimensions with constant weights -> our GEMM kernels, on channels-last activations.

A row of an image (height, width, channels) has a window's columns side by side, so that a convolution over two dimensions is a
product with one tap per row of the window, each of its columns * channels elements. Where they do not lie so (columns spread by
dilation; groups, whose channels come between) they are copied side by side first. ONNX has channels first: kernels get their
data transposed (channels_last.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, Var, rows_per_stream, static_shape
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.compile.patterns.channels_last import Bindings, Transposed, channels_last, known, padded
from edgeemo.compile.patterns.weights import ANY_INT8, Product, by_operand, read_weights, zero_point_offset
from edgeemo.targets import capabilities

CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d")


@dataclass(frozen=True)
class _Window:
    """A convolution's attributes by dimension (``padding``: all befores, then all afters), the size of what comes out, and what
    stands for zero in what it reads."""

    groups: int
    strides: list[int]
    dilations: list[int]
    padding: list[int]
    out: list[int]
    zero: int


def product(graph: Graph, root: Var, transposed: Transposed) -> Product | None:
    """None where no kernel fits: more than two dimensions, groups of few channels, a batch that is not first."""
    attrs: Any = graph.attrs(root)
    data, weight_value = graph.args(root)
    found = read_weights(graph, weight_value)
    shape, out = static_shape(data), static_shape(root)
    if found is None or str(attrs.data_layout) not in ("NCW", "NCHW") or rows_per_stream(data) is None or None in out[1:]:
        return None
    last: Expr | None = transposed[data] if known(data, transposed) else None
    kind, weight, scale, quantized = by_operand(graph, data if last is None else last, found, 0)
    groups = int(attrs.groups)
    dilations = [int(d) for d in attrs.dilation]
    if not capabilities.convolution_fits(kind, groups, weight.shape[1], dilations):
        return None
    a_scale, zero, qmax = 1.0, 0, ANY_INT8
    if quantized is not None:
        value, a_scale, zero = quantized
        qmax = max(graph.qmax.get(value, ANY_INT8), abs(zero))
        data, last = (value, None) if last is None else (data, value)
    before: Bindings = []
    if last is None:
        last = channels_last(graph, data, before)
    column_scale = None if scale is None else np.broadcast_to(scale * a_scale, (len(weight),))
    strides, padding = [int(x) for x in attrs.strides], [int(p) for p in attrs.padding]
    window = _Window(groups, strides, dilations, padding, [d or 0 for d in out[2:]], zero)
    by_taps = len(shape) == 3 and not (kind == "s8" and weight.shape[1] % capabilities.K_S8)
    spec, last, ordered = (_by_taps if by_taps else _by_rows)(graph, last, weight, kind, window, before)
    offset = None if column_scale is None else zero_point_offset(ordered, zero, column_scale)
    return Product(spec, last, ordered, column_scale, True, before, offset, qmax)


def _by_taps(
    graph: Graph, data: Expr, weight: np.ndarray, kind: str, window: _Window, before: Bindings
) -> tuple[Gemm, Expr, np.ndarray]:
    """Over one dimension a tap per window position: groups' channels lie apart."""
    data = padded(graph, data, [(window.padding[0], window.padding[1])], window.zero, before)
    n, tap_k, taps = weight.shape
    channels, (_, time, _) = tap_k * window.groups, static_shape(data)
    assert time is not None
    between, stride = channels * window.dilations[0], channels * window.strides[0]
    spec = Gemm(kind, window.out[0], taps, tap_k, between, stride, channels * time, n, window.groups)
    return spec, data, _ordered(kind, weight[..., None], window.groups)


def _by_rows(
    graph: Graph, data: Expr, weight: np.ndarray, kind: str, window: _Window, before: Bindings
) -> tuple[Gemm, Expr, np.ndarray]:
    """A tap per row of the window, its columns side by side; one dimension is an image of one line. For bytes that would have to
    be filled up to what the kernel loads, too: a waveform's one channel would become 16.

    Where columns lie so already, a tap whose weights are filled up reads into the next ones, which have to be there."""
    weight = weight if weight.ndim == 4 else weight[:, :, None]
    n, channels, taps, columns = weight.shape
    ordered = _ordered(kind, weight, window.groups)
    more = ordered.shape[2] - columns * channels
    as_they_lie = (window.groups == 1 and window.dilations[-1] == 1) or (columns == 1 and not more)
    dims = len(window.out)
    sizes = [(window.padding[i], window.padding[i + dims]) for i in range(dims)]
    sizes[-1] = (sizes[-1][0], sizes[-1][1] + (-(-more // channels) if as_they_lie else 0))
    data = padded(graph, data, sizes, window.zero, before)
    if not as_they_lie:
        data = _side_by_side(graph, data, window, channels, columns, more, before)
    height, width, wide = [1, *(d or 0 for d in static_shape(data)[1:])][-3:]
    line, (lines, places) = width * wide, [1, *window.out][-2:]
    row_stride, block_stride = wide * (window.strides[-1] if as_they_lie else 1), line * window.strides[0]
    between = line * window.dilations[0] if dims == 2 else 0
    spec = Gemm(kind, lines * places, taps, ordered.shape[2], between, row_stride, height * line, n, window.groups)
    if dims == 2 and block_stride != places * row_stride:  # else all rows are one row_stride apart, and tiles may span lines
        spec = replace(spec, rows_per_block=places, block_stride=block_stride)
    return spec, data, ordered


def _ordered(kind: str, weight: np.ndarray, groups: int) -> np.ndarray:
    """weight (n, channels, taps, columns) as (groups, taps, columns * channels, n of a group): a tap is one run of elements,
    filled up with zeros to a multiple of what the kernel loads."""
    n, channels, taps, columns = weight.shape
    ordered = weight.reshape(groups, n // groups, channels, taps, columns).transpose(0, 3, 4, 2, 1)
    more = -columns * channels % capabilities.K_S8 if kind == "s8" else 0
    return np.pad(ordered.reshape(groups, taps, columns * channels, n // groups), ((0, 0), (0, 0), (0, more), (0, 0)))


def _side_by_side(graph: Graph, data: Expr, window: _Window, channels: int, columns: int, more: int, before: Bindings) -> Expr:
    """Channels-last ``data`` (..., columns, channels) as (..., places, groups * k): each group's channels of the window's columns
    at a place, and ``more`` zeros."""
    groups, places, stride, dilation = window.groups, window.out[-1], window.strides[-1], window.dilations[-1]
    *lead, _, _ = data.ty.shape
    dtype, axis, k = data.ty.dtype, len(lead), columns * channels

    def column(i: int) -> Expr:
        first = i * dilation
        part = relax.op.strided_slice(data, [axis], [first], [first + (places - 1) * stride + 1], [stride])
        part = graph.emit(before, "column", part, [*lead, places, groups * channels], dtype)
        shape = [*lead, places, groups, channels]
        return graph.emit(before, "column", relax.op.reshape(part, shape), shape, dtype)

    joined = relax.op.concat([column(i) for i in range(columns)], axis=-1)
    made = graph.emit(before, "columns", joined, [*lead, places, groups, k], dtype)
    if more:
        filled = relax.op.nn.pad(made, [0, 0] * (axis + 2) + [0, more])
        made = graph.emit(before, "filled", filled, [*lead, places, groups, k + more], dtype)
    shape = [*lead, places, groups * (k + more)]
    return graph.emit(before, "side_by_side", relax.op.reshape(made, shape), shape, dtype)
