"""Conv over one or two dimensions with constant weights -> our GEMM kernels, on channels-last activations.

A row of an image (height, width, channels) has a window's columns side by side, so that a convolution over two dimensions is a
product with one tap per row of the window, each of its columns * channels elements. ONNX has channels first: kernels get their
data transposed, and what goes element by element or channel by channel over their results (``sink``) works on the transposed
values, so that between two convolutions nothing is transposed back and forth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, Var, new_var, rows_per_stream, static_shape
from edgeemo.compile.kernels.specs import Gemm
from edgeemo.compile.patterns.weights import ANY_INT8, Product, padded_to_kernel, quantized_data, read_weights, zero_point_offset
from edgeemo.targets import capabilities

CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d")
LAST = {3: [0, 2, 1], 4: [0, 2, 3, 1]}  # channels first to last, by the number of dimensions
FIRST = {3: [0, 2, 1], 4: [0, 3, 1, 2]}
SINKS = {
    f"relax.{op}"
    for op in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "clip", "sigmoid", "tanh", "exp", "negative", "abs",
               "nn.relu", "nn.leakyrelu", "nn.silu", "nn.gelu", "quantize", "dequantize")
}  # fmt: skip
REDUCTIONS = {"relax.mean": relax.op.mean, "relax.max": relax.op.max}
POOLS = {"relax.nn.max_pool2d": relax.op.nn.max_pool2d, "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d}
RESIZE = "relax.image.resize2d"

Bindings = list[tuple[Var, Expr]]
Transposed = dict[Var, Expr]  # channels-first variables of ours, and the channels-last ones that they are transposes of


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
    """None where no kernel fits: more than two dimensions, groups or spread columns over two, a batch that is not first."""
    attrs: Any = graph.attrs(root)
    data, weight_value = graph.args(root)
    found = read_weights(graph, weight_value)
    shape, out = static_shape(data), static_shape(root)
    if found is None or str(attrs.data_layout) not in ("NCW", "NCHW") or rows_per_stream(data) is None or None in out[1:]:
        return None
    kind, weight, scale = found
    groups = int(attrs.groups)
    dilations = [int(d) for d in attrs.dilation]
    if not capabilities.convolution_fits(kind, groups, weight.shape[1], dilations):
        return None
    last: Expr | None = transposed[data] if known(data, transposed) else None
    a_scale, zero, qmax = 1.0, 0, ANY_INT8
    if kind == "s8":
        quantized = quantized_data(graph, data if last is None else last)
        if quantized is None:
            return None
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


def _whole_taps(kind: str, weight: np.ndarray) -> tuple[np.ndarray, int]:
    """weight (n, channels, taps, columns) as (1, taps, columns * channels, n): a tap is one run of elements. Where that is no
    multiple of what the kernel loads, it reads into the next columns, with weights of zero: so many have to be there beyond."""
    n, channels, taps, columns = weight.shape
    more = -columns * channels % capabilities.K_S8 if kind == "s8" else 0
    ordered = weight.transpose(2, 3, 1, 0).reshape(1, taps, columns * channels, n)
    return np.pad(ordered, ((0, 0), (0, 0), (0, more), (0, 0))), -(-more // channels)


def padded(graph: Graph, data: Expr, sizes: list[tuple[int, int]], zero: int, before: Bindings) -> Expr:
    """Channels-last ``data``, (before, after) each inner dimension filled up with what stands for zero."""
    if not any(map(any, sizes)):
        return data
    width = [0, 0, *(side for pair in sizes for side in pair), 0, 0]
    shape = list(data.ty.shape)
    inner = [int(d) + sum(pair) for d, pair in zip(shape[1:-1], sizes, strict=True)]
    var = new_var("padded", [shape[0], *inner, shape[-1]], data.ty.dtype)
    graph.value[var] = relax.op.nn.pad(data, width, pad_value=zero)
    before.append((var, graph.value[var]))
    return var


def channels_last(graph: Graph, value: Expr, before: Bindings) -> Expr:
    """The other side of a transpose that is there, or of one put in."""
    rank = len(value.ty.shape)
    if graph.is_op(value, "permute_dims") and [int(a) for a in graph.attrs(value).axes] == FIRST[rank]:
        return graph.args(value)[0]
    if graph.is_op(value, "quantize"):
        source = channels_last(graph, graph.args(value)[0], before)
        var = new_var("quantized", list(source.ty.shape), "int8")
        graph.value[var] = relax.op.quantize(source, *graph.args(value)[1:], axis=-1, out_dtype="int8")
        before.append((var, graph.value[var]))
        return var
    if value in graph.qmax and graph.is_op(value, "clip"):
        source = channels_last(graph, graph.args(value)[0], before)
        var = new_var("clipped", list(source.ty.shape), "int8")
        graph.value[var] = relax.op.clip(source, *graph.args(value)[1:])
        graph.qmax[var] = graph.qmax[value]
        before.append((var, graph.value[var]))
        return var
    shape = list(value.ty.shape)
    var = new_var("channels_last", [shape[i] for i in LAST[rank]], value.ty.dtype)
    graph.value[var] = relax.op.permute_dims(value, LAST[rank])
    before.append((var, graph.value[var]))
    return var


def channels_first(graph: Graph, root: Var, transposed: Transposed, before: Bindings, last: Var) -> None:
    """``root``, which is channels-first, as the transpose of ``last``."""
    graph.rebind(root, relax.op.permute_dims(last, FIRST[len(last.ty.shape)]), [*before, (last, graph.value[last])])
    transposed[root] = last
    if root in graph.qmax:
        graph.qmax[last] = graph.qmax[root]


def like_last(root: Var) -> Var:
    """A channels-last variable of the type of a channels-first one."""
    shape = list(root.ty.shape)
    return new_var("channels_last", [shape[i] for i in LAST[len(shape)]], root.ty.dtype)


def sink(graph: Graph, root: Var, transposed: Transposed) -> None:
    """An operator that goes element by element over transposes of ours, with constants of one element or one per channel
    besides, and a concatenation of their channels: done before the transpose instead of behind it."""
    call = graph.value[root]
    if not isinstance(root.ty, relax.TensorType) or len(root.ty.shape) not in FIRST or not isinstance(call, relax.Call):
        return
    rank = len(root.ty.shape)
    if graph.op(root) == "relax.concat":
        parts = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
        if int(call.attrs.axis) % rank != 1 or not parts or not all(known(p, transposed) for p in parts):
            return
        made = relax.op.concat([transposed[p] for p in parts], axis=rank - 1)
    elif graph.op(root) in SINKS and any(known(a, transposed) for a in call.args):
        args = [transposed[a] if known(a, transposed) else _constant_last(graph, a, rank) for a in call.args]
        if any(a is None for a in args):
            return
        made = relax.Call(call.op, args, call.attrs)
    else:
        made = _over_places(graph, root, transposed)
        if made is None:
            return
    last = like_last(root)
    graph.value[last] = made
    channels_first(graph, root, transposed, [], last)


def _over_places(graph: Graph, root: Var, transposed: Transposed) -> Expr | None:
    """Pooling, resizing, mean and maximum over a channel's places, on channels-last values of ours; None for any other."""
    op = graph.op(root)
    if op not in (*REDUCTIONS, *POOLS, RESIZE) or not known(graph.args(root)[0], transposed):
        return None
    last, attrs, rank = transposed[graph.args(root)[0]], graph.attrs(root), len(root.ty.shape)
    if op in REDUCTIONS:
        if not attrs.keepdims or attrs.axis is None or sorted(int(a) % rank for a in attrs.axis) != list(range(2, rank)):
            return None
        return REDUCTIONS[op](last, list(range(1, rank - 1)), keepdims=True)
    if op in POOLS:
        sizes = (list(attrs.pool_size), list(attrs.strides), list(attrs.padding), list(attrs.dilation))
        return POOLS[op](last, *sizes, attrs.ceil_mode, attrs.count_include_pad, layout="NHWC", out_layout="NHWC")
    if str(attrs.coordinate_transformation_mode) == "tf_crop_and_resize":
        return None  # the one that has a region, by channels-first axes
    how = {name: getattr(attrs, name) for name in ("method", "coordinate_transformation_mode", "rounding_method")}
    fine = {name: getattr(attrs, name) for name in ("cubic_alpha", "cubic_exclude", "extrapolation_value")}
    return relax.op.image.resize2d(last, graph.args(root)[1], layout="NHWC", **how, **fine)


def known(value: Expr, transposed: Transposed) -> bool:
    return isinstance(value, relax.Var) and value in transposed


def _constant_last(graph: Graph, value: Expr, rank: int) -> Expr | None:
    """A constant that meets channels-first values, for channels-last ones; None where it differs by place."""
    array = graph.constant(value)
    if array is None:
        return value if not hasattr(value.ty, "shape") else None  # a number
    if array.size == 1:
        return value
    shape = (1,) * (rank - array.ndim) + array.shape
    return relax.const(array.reshape(-1)) if len(shape) == rank and array.size == shape[1] else None
