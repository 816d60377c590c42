"""Conv over one or two dimensions with a window of its own for every channel -> our depthwise kernels, in INT8 or float32.

With what follows fused: bias, activation, and in INT8 the rounding to the next layer's int8. Halves, and INT8 weights where the
INT8 kernel does not take what they meet (few channels, data in float), become floats, and cost what a float layer costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from edgeemo.compile.ir import Expr, Graph, KernelTable, Var, rows_per_stream, static_shape
from edgeemo.compile.kernels import depthwise as kernel
from edgeemo.compile.kernels.vector_math import ACTIVATIONS
from edgeemo.compile.patterns import epilogue
from edgeemo.compile.patterns.channels_last import Bindings, Transposed, channels_last, known, padded
from edgeemo.compile.patterns.weights import dequantized, quantized_data, read_weights, zero_point_offset
from edgeemo.targets import capabilities

LAYOUTS = {3: "NCW", 4: "NCHW"}


def match(graph: Graph, table: KernelTable, root: Var, transposed: Transposed) -> str | None:
    """Rebinds a convolution that fits and returns the type of its kernel's weights, None where it does not fit."""
    attrs: Any = graph.attrs(root)
    data, weight_value = graph.args(root)
    found, shape, out = read_weights(graph, weight_value), static_shape(data), static_shape(root)
    if found is None or str(attrs.data_layout) != LAYOUTS.get(len(shape)) or rows_per_stream(data) is None or None in out[1:]:
        return None
    kind, weight, scale = found
    if not capabilities.depthwise_fits("f32", int(attrs.groups), weight.shape) or data.ty.dtype != "float32":
        return None
    channels, dims = len(weight), len(shape) - 2
    last: Expr = transposed[data] if known(data, transposed) else data
    quantized = None
    if kind == "s8" and weight.min() >= -127 and capabilities.depthwise_fits("s8", channels, weight.shape):
        quantized = quantized_data(graph, last)
    before: Bindings = []
    zero, sums_scale = 0, None
    if quantized is not None and scale is not None:
        last, data_scale, zero = quantized
        sums_scale = np.broadcast_to(scale * data_scale, (channels,))
    elif scale is not None:
        weight = dequantized(weight, scale, 0)
    if not known(data, transposed):
        last = channels_last(graph, last, before)
    padding = [int(p) for p in attrs.padding]
    last = padded(graph, last, [(padding[i], padding[i + dims]) for i in range(dims)], zero, before)
    if channels > int(attrs.groups):  # several results of each channel: copies of it, side by side
        repeated = relax.op.repeat(last, channels // int(attrs.groups), axis=dims + 1)
        last = graph.emit(before, "repeated", repeated, [*list(last.ty.shape)[:-1], channels], last.ty.dtype)

    int8 = sums_scale is not None
    takes = {"factor"} | {*(ACTIVATIONS if channels >= kernel.LANES["f32"] else ())} | ({"quantize"} if int8 else set())
    after = epilogue.follow(graph, root, channels, True, int8, takes)
    if after.factor is not None and sums_scale is None:
        weight = weight * after.factor.reshape(-1, *[1] * (dims + 1))
    elif after.factor is not None:
        sums_scale = sums_scale * after.factor
    if sums_scale is not None:
        after.add_bias(zero_point_offset(weight.reshape(channels, 1, -1, 1), zero, sums_scale))
    spec = _spec("s8" if int8 else "f32", last, weight, out, attrs, after)
    ordered = np.ascontiguousarray(weight.reshape(channels, -1).T).astype(np.int8 if int8 else np.float32)
    args = [last, relax.const(ordered.reshape(-1))]
    if sums_scale is not None:
        sums_scale = after.scaled(sums_scale) if after.scalable else sums_scale
        args.append(relax.const(sums_scale.astype(np.float32)))
    args += [] if after.bias is None else [relax.const(after.bias.astype(np.float32))]
    args += [] if after.inverse is None else [relax.const(np.array([after.inverse[0]], np.float32))]
    epilogue.rebind(graph, after, table.add(spec, kernel.build), args, before, transposed)
    return spec.kind


def _spec(
    kind: str, last: Expr, weight: np.ndarray, out: list[int | None], attrs: Any, after: epilogue.Epilogue
) -> kernel.Depthwise:
    return kernel.Depthwise(
        kind,
        len(weight),
        *_pair(static_shape(last)[1:-1]),
        _pair(out[2:]),
        _pair(weight.shape[2:]),
        _pair(attrs.strides),
        _pair(attrs.dilation),
        bias=after.bias is not None,
        activation=after.activation,
        quantize=after.inverse is not None,
        qmax=after.qmax,
        requant_folded=after.scalable,
    )


def _pair(sizes: Any) -> tuple[int, int]:
    """(down, across) of one or two sizes: one dimension is an image of one line."""
    down, across = [1, *map(int, sizes)][-2:]
    return down, across
