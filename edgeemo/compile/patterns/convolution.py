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
from edgeemo.compile.patterns.weights import ANY_INT8, Product, by_operand, padded_to_kernel, read_weights, zero_point_offset
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
    over = _one_dimension if len(shape) == 3 else _two_dimensions
    spec, last, ordered = over(graph, last, weight, kind, window, before)
    offset = None if column_scale is None else zero_point_offset(ordered, zero, column_scale)
    return Product(spec, last, ordered, column_scale, True, before, offset, qmax)


def _one_dimension(
    graph: Graph, data: Expr, weight: np.ndarray, kind: str, window: _Window, before: Bindings
) -> tuple[Gemm, Expr, np.ndarray]:
    """A tap per window position: groups' channels lie apart. Where bytes would have to be filled up to what the kernel loads, a
    window without gaps is one tap instead: a waveform's one channel would become 16."""
    if kind == "s8" and weight.shape[1] % capabilities.K_S8 and window.groups == 1 and window.dilations[0] == 1:
        ordered, beyond = _whole_taps(kind, weight[:, :, None])
        data = padded(graph, data, [(window.padding[0], window.padding[1] + beyond)], window.zero, before)
        (_, time, channels), (_, _, tap_k, n) = static_shape(data), ordered.shape
        assert time and channels
        return Gemm(kind, window.out[0], 1, tap_k, 0, channels * window.strides[0], channels * time, n), data, ordered
    data = padded(graph, data, [(window.padding[0], window.padding[1])], window.zero, before)
    if kind == "s8" and weight.shape[1] % capabilities.K_S8 and window.groups > 1:
        data, ordered = _side_by_side(graph, data, kind, weight[:, :, None], window, before)
        (_, places, wide), (groups, _, tap_k, n) = static_shape(data), ordered.shape
        assert places and wide
        return Gemm(kind, places, 1, tap_k, 0, wide, wide * places, n * groups, groups), data, ordered
    if kind == "s8":
        data, weight = padded_to_kernel(graph, data, weight, 1, before)
    n, tap_k, taps = weight.shape
    groups, channels, (_, time, _) = window.groups, tap_k * window.groups, static_shape(data)
    assert time is not None
    between, stride = channels * window.dilations[0], channels * window.strides[0]
    spec = Gemm(kind, window.out[0], taps, tap_k, between, stride, channels * time, n, groups)
    return spec, data, weight.reshape(groups, n // groups, tap_k, taps).transpose(0, 3, 2, 1)


def _two_dimensions(
    graph: Graph, data: Expr, weight: np.ndarray, kind: str, window: _Window, before: Bindings
) -> tuple[Gemm, Expr, np.ndarray]:
    """A tap per row of the window."""
    if window.groups > 1 or window.dilations[1] > 1:
        return _copied_columns(graph, data, weight, kind, window, before)
    ordered, beyond = _whole_taps(kind, weight)
    top, left, bottom, right = window.padding
    data = padded(graph, data, [(top, bottom), (left, right + beyond)], window.zero, before)
    (_, height, width, channels), (_, taps, tap_k, n) = static_shape(data), ordered.shape
    assert height and width and channels
    line, (lines, places) = width * channels, window.out
    row_stride, block_stride = window.strides[1] * channels, window.strides[0] * line
    spec = Gemm(kind, lines * places, taps, tap_k, window.dilations[0] * line, row_stride, height * line, n)
    if block_stride != places * row_stride:  # else all rows are one row_stride apart, and tiles may span lines
        spec = replace(spec, rows_per_block=places, block_stride=block_stride)
    return spec, data, ordered


def _copied_columns(
    graph: Graph, data: Expr, weight: np.ndarray, kind: str, window: _Window, before: Bindings
) -> tuple[Gemm, Expr, np.ndarray]:
    """A tap per row of the window, of columns that are copied side by side; one column of channels that the kernel takes as they
    are is not."""
    top, left, bottom, right = window.padding
    data = padded(graph, data, [(top, bottom), (left, right)], window.zero, before)
    if weight.shape[3] == 1 and (kind != "s8" or weight.shape[1] % capabilities.K_S8 == 0):
        ordered, between = _by_group(weight, window.groups), window.strides[1]
    else:
        data, ordered = _side_by_side(graph, data, kind, weight, window, before)
        between = 1
    (_, height, width, wide), (groups, taps, tap_k, n) = static_shape(data), ordered.shape
    assert height and width and wide
    line, (lines, places) = width * wide, window.out
    row_stride, block_stride = between * wide, window.strides[0] * line
    spec = Gemm(kind, lines * places, taps, tap_k, window.dilations[0] * line, row_stride, height * line, n * groups, groups)
    if block_stride != places * row_stride:
        spec = replace(spec, rows_per_block=places, block_stride=block_stride)
    return spec, data, ordered


def _by_group(weight: np.ndarray, groups: int) -> np.ndarray:
    """weight (n, channels, taps, columns) as (groups, taps, columns * channels, n of a group)."""
    n, channels, taps, columns = weight.shape
    ordered = weight.reshape(groups, n // groups, channels, taps, columns).transpose(0, 3, 4, 2, 1)
    return ordered.reshape(groups, taps, columns * channels, n // groups)


def _side_by_side(
    graph: Graph, data: Expr, kind: str, weight: np.ndarray, window: _Window, before: Bindings
) -> tuple[Expr, np.ndarray]:
    """Channels-last ``data`` (..., columns, channels) as (..., places, groups * k): each group's channels of the window's columns
    at a place, filled up with zeros to what the kernel loads; and the weights (groups, rows, k, n) for it."""
    _, channels, _, columns = weight.shape
    groups, places, stride, dilation = window.groups, window.out[-1], window.strides[-1], window.dilations[-1]
    *lead, _, _ = data.ty.shape
    dtype, axis = data.ty.dtype, len(lead)

    def column(i: int) -> Expr:
        first = i * dilation
        part = relax.op.strided_slice(data, [axis], [first], [first + (places - 1) * stride + 1], [stride])
        part = graph.emit(before, "column", part, [*lead, places, groups * channels], dtype)
        shape = [*lead, places, groups, channels]
        return graph.emit(before, "column", relax.op.reshape(part, shape), shape, dtype)

    parts, k = [column(i) for i in range(columns)], columns * channels
    shape = [*lead, places, groups, k]
    joined = graph.emit(before, "columns", relax.op.concat(parts, axis=-1), shape, dtype)
    more = -k % capabilities.K_S8 if kind == "s8" else 0
    if more:
        shape[-1] = k + more
        filled = relax.op.nn.pad(joined, [0, 0] * (len(shape) - 1) + [0, more])
        joined = graph.emit(before, "filled", filled, shape, dtype)
    shape = [*lead, places, groups * (k + more)]
    made = graph.emit(before, "side_by_side", relax.op.reshape(joined, shape), shape, dtype)
    return made, np.pad(_by_group(weight, groups), ((0, 0), (0, 0), (0, more), (0, 0)))


def _whole_taps(kind: str, weight: np.ndarray) -> tuple[np.ndarray, int]:
    """weight (n, channels, taps, columns) as (1, taps, columns * channels, n): a tap is one run of elements. Where that is no
    multiple of what the kernel loads, it reads into the next columns, with weights of zero: so many have to be there beyond."""
    n, channels, taps, columns = weight.shape
    more = -columns * channels % capabilities.K_S8 if kind == "s8" else 0
    ordered = weight.transpose(2, 3, 1, 0).reshape(1, taps, columns * channels, n)
    return np.pad(ordered, ((0, 0), (0, 0), (0, more), (0, 0))), -(-more // channels)
