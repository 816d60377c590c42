"""Convolutions with padding that is not written out, and transposed ones as products where their windows lie side by side."""

from __future__ import annotations

import numpy as np
import onnx

from edgeemo.adapt.operators.context import Context
from edgeemo.adapt.operators.pooling import auto_pads, flat, with_attributes
from edgeemo.onnxlib.graph import Maker, attributes


def convolution(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    """``auto_pad`` as the padding it comes to."""
    options, shape = attributes(node), context.shape(node.input[0])
    way = options.get("auto_pad", b"NOTSET").decode()
    weight = context.shape(node.input[1])
    sizes, windows = shape[2:], weight[2:]
    if way == "NOTSET" or not sizes or not all(isinstance(d, int) for d in (*sizes, *windows)):
        return False
    strides, dilations = (options.get(n, [1] * len(sizes)) for n in ("strides", "dilations"))
    pads = auto_pads(way, [int(d) for d in sizes], [int(d) for d in windows], strides, dilations)
    with_attributes(node, auto_pad=None, pads=flat(pads))
    return False


def transposed(node: onnx.NodeProto, context: Context, make: Maker) -> bool:
    options, shape = attributes(node), context.shape(node.input[0])
    weight = context.constant(node, 1)
    if not shape or not all(isinstance(d, int) for d in shape[1:]):
        return False
    _write_out_padding(node, context, options)
    options = attributes(node)
    window = context.shape(node.input[1])[2:]
    strides = tuple(options.get("strides", [1] * len(window)))
    plain = not any(any(options.get(name, ())) for name in ("pads", "output_padding")) and set(options.get("dilations", ())) <= {
        1
    }
    if weight is None or strides != tuple(window) or options.get("group", 1) != 1 or not plain:
        return False
    bias = context.constant(node, 2)
    if context.has(node, 2) and bias is None:
        return False
    _side_by_side(node, make, weight, bias, [int(d) for d in shape[2:]])
    return True


def _write_out_padding(node: onnx.NodeProto, context: Context, options: dict) -> None:
    """``output_shape`` and ``auto_pad`` as pads and output_padding: onnx's Operators.md, ConvTranspose."""
    way, wanted = options.get("auto_pad", b"NOTSET").decode(), options.get("output_shape")
    if way == "NOTSET" and not wanted:
        return
    sizes, windows = ([int(d) for d in context.shape(node.input[i])[2:]] for i in (0, 1))
    strides, dilations = (options.get(n, [1] * len(sizes)) for n in ("strides", "dilations"))
    if way == "VALID":
        with_attributes(node, auto_pad=None, pads=None)
        return
    wanted = wanted[-len(sizes) :] if wanted else [s * d for s, d in zip(sizes, strides, strict=True)]
    before, after, beyond = [], [], []
    extra = options.get("output_padding", [0] * len(sizes))
    for size, window, stride, spread, out, more in zip(sizes, windows, strides, dilations, wanted, extra, strict=True):
        total = stride * (size - 1) + more + (window - 1) * spread + 1 - out
        beyond.append(more + max(-total, 0))
        total = max(total, 0)
        half = total // 2
        before.append(half if way == "SAME_UPPER" else total - half)
        after.append(total - half if way == "SAME_UPPER" else half)
    extra = beyond if any(beyond) else None
    with_attributes(node, auto_pad=None, output_shape=None, pads=[*before, *after], output_padding=extra)


def _side_by_side(node: onnx.NodeProto, make: Maker, weight: np.ndarray, bias: np.ndarray | None, sizes: list[int]) -> None:
    """Whose windows lie side by side (kernel = stride): each place becomes a window by itself, as a convolution of one tap makes
    all of them, whose channels then move into the window."""
    window, channels = list(weight.shape[2:]), weight.shape[1]
    places, over = int(np.prod(window)), len(window)
    one_tap = weight.reshape(len(weight), channels * places).T
    inputs = [node.input[0], make.constant(np.ascontiguousarray(one_tap.reshape(*one_tap.shape, *[1] * over)))]
    if bias is not None:
        inputs.append(make.constant(np.repeat(bias, places)))
    made = make.op("Conv", *inputs)
    apart = make.reshape(made, [-1, channels, *window, *sizes])
    turn = [0, 1, *(axis for i in range(over) for axis in (2 + over + i, 2 + i))]
    turned = make.op("Transpose", apart, perm=turn)
    make.reshape(turned, [-1, channels, *(a * b for a, b in zip(sizes, window, strict=True))], output=node.output[0])


LOWERINGS = {"Conv": convolution, "ConvTranspose": transposed}
