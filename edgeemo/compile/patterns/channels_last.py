"""Channels-last layout of convolutions' data, and its propagation through what follows.

ONNX has channels first: kernels get their data transposed, and what goes element by element or channel by channel over their
results (``propagate``) works on the transposed values, so that between two convolutions nothing is transposed back and forth.
"""

from __future__ import annotations

from tvm import relax

from edgeemo.compile.ir import Expr, Graph, Var, new_var

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


def padded(graph: Graph, data: Expr, sizes: list[tuple[int, int]], zero: int, before: Bindings) -> Expr:
    """Channels-last ``data``, (before, after) each inner dimension filled up with what stands for zero."""
    if not any(map(any, sizes)):
        return data
    width = [0, 0, *(side for pair in sizes for side in pair), 0, 0]
    shape = list(data.ty.shape)
    inner = [int(d) + sum(pair) for d, pair in zip(shape[1:-1], sizes, strict=True)]
    pad = relax.op.nn.pad(data, width, pad_value=zero)
    return graph.emit(before, "padded", pad, [shape[0], *inner, shape[-1]], data.ty.dtype)


def channels_last(graph: Graph, value: Expr, before: Bindings) -> Expr:
    """The other side of a transpose that is there, or of one put in."""
    rank = len(value.ty.shape)
    if graph.is_op(value, "permute_dims") and [int(a) for a in graph.attrs(value).axes] == FIRST[rank]:
        return graph.args(value)[0]
    if graph.is_op(value, "quantize"):
        source = channels_last(graph, graph.args(value)[0], before)
        quantize = relax.op.quantize(source, *graph.args(value)[1:], axis=-1, out_dtype="int8")
        return graph.emit(before, "quantized", quantize, list(source.ty.shape), "int8")
    if value in graph.qmax and graph.is_op(value, "clip"):
        source = channels_last(graph, graph.args(value)[0], before)
        clip = relax.op.clip(source, *graph.args(value)[1:])
        var = graph.emit(before, "clipped", clip, list(source.ty.shape), "int8")
        graph.qmax[var] = graph.qmax[value]
        return var
    shape = list(value.ty.shape)
    transpose = relax.op.permute_dims(value, LAST[rank])
    return graph.emit(before, "channels_last", transpose, [shape[i] for i in LAST[rank]], value.ty.dtype)


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


def propagate(graph: Graph, root: Var, transposed: Transposed) -> None:
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
