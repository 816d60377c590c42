"""Conv over two dimensions with a window of its own for every channel -> our depthwise kernel, in float32.

With + bias and relu behind it. INT8 files have INT8 weights there, too: they become floats, and cost what a float layer costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from edgeemo.compile.kernels import depthwise as kernel
from edgeemo.compile.passes.convolution import Bindings, Transposed, channels_first, channels_last, known, like_last, padded
from edgeemo.compile.passes.graph import Graph, KernelTable, Var, call_kernel, rows_per_stream, static_shape
from edgeemo.compile.passes.weights import constant_bias, read_weights


def run(graph: Graph, table: KernelTable, root: Var, transposed: Transposed) -> str | None:
    """Rebinds a convolution that fits and returns the type of its kernel's weights, None where it does not fit."""
    attrs: Any = graph.attrs(root)
    data, weight_value = graph.args(root)
    found, shape, out = read_weights(graph, weight_value), static_shape(data), static_shape(root)
    if found is None or str(attrs.data_layout) != "NCHW" or rows_per_stream(data) is None or None in out[1:]:
        return None
    kind, weight, scale = found
    channels, per_group = weight.shape[:2]
    if kind == "f16" or per_group != 1 or channels != shape[1] or int(attrs.groups) != channels or data.ty.dtype != "float32":
        return None
    if scale is not None:
        weight = weight * np.broadcast_to(scale, (channels,)).reshape(-1, 1, 1, 1)
    before: Bindings = []
    last = transposed[data] if known(data, transposed) else channels_last(graph, data, before)
    top, left, bottom, right = (int(p) for p in attrs.padding)
    last = padded(graph, last, [(top, bottom), (left, right)], 0, before)
    _, height, width, _ = static_shape(last)
    strides, dilations = ((int(p[0]), int(p[1])) for p in (attrs.strides, attrs.dilation))
    assert height and width and out[2] and out[3]
    bias, relu, end = _epilogue(graph, root, channels)
    window = (weight.shape[2], weight.shape[3])
    spec = kernel.Depthwise(channels, height, width, (out[2], out[3]), window, strides, dilations, bias is not None, relu)
    ordered = weight.reshape(channels, -1).T.astype(np.float32)
    args = [last, relax.const(np.ascontiguousarray(ordered).reshape(-1))]
    args += [] if bias is None else [relax.const(bias.astype(np.float32))]
    result = like_last(end)
    graph.value[result] = call_kernel(table.add(spec, kernel.build), args, result)
    channels_first(graph, end, transposed, before, result)
    return "f32"


def _epilogue(graph: Graph, root: Var, channels: int) -> tuple[np.ndarray | None, bool, Var]:
    """Bias, relu, and the last variable that they end in."""
    bias, user = None, graph.only_user(root)
    if user is not None and graph.is_op(user, "add"):
        a, b = graph.args(user)
        found = constant_bias(graph, b if a == root else a)
        if found is not None and found.size == channels:
            bias, root = found.reshape(-1), user
            user = graph.only_user(root)
    relu = user is not None and graph.is_op(user, "nn.relu")
    return bias, relu, user if relu else root
