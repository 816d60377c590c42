"""Weights that a file stores as integers, as kernels take them: int8, no zero point, a scale for all or for each output.

Files have others: uint8, four bits, float8, zero points, scales by blocks or along the reduction. What fits int8 once its zero
point is taken off becomes that; the rest becomes float32, since TVM's importer lacks some of it, and what it takes ends in stock
loops.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgeemo.onnxlib.dequantize import FLOAT8, Stored, stored
from edgeemo.onnxlib.graph import attributes, replace_nodes, without_unread

OUTPUTS = {"Conv": 0, "ConvTranspose": 1}  # axis of a weight that counts outputs
Readers = dict[str, list[tuple[onnx.NodeProto, int]]]  # by tensor: nodes, and which of their inputs it is


def with_plain_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself where nothing is to be done, else a copy that computes the same."""
    constants = {i.name: i for i in model.graph.initializer}
    readers: Readers = defaultdict(list)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            readers[name].append((node, place))
    weights = {n.output[0]: constant for n in model.graph.node if (constant := stored(n, constants)) is not None}
    changed = {name: array for name, constant in weights.items() if (array := _plain(constant, name, readers)) is not None}
    changed = {name: array for name, array in changed.items() if name not in {o.name for o in model.graph.output}}
    if not changed:
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    nodes = []
    for node in plain.graph.node:
        values = changed.get(node.output[0]) if node.output else None
        if values is not None:
            name = f"{node.output[0]}_int8" if values.dtype == np.int8 else node.output[0]
            plain.graph.initializer.append(numpy_helper.from_array(values, name))
            node.input[:] = [name, node.input[1]]
        if values is None or values.dtype == np.int8:
            nodes.append(node)
    replace_nodes(plain, nodes)
    return without_unread(plain)


def _plain(constant: Stored, name: str, readers: Readers) -> np.ndarray | None:
    """A constant in another form: int8 to be dequantized by its scales alone, or float32; None where it may stay."""
    values = constant.values
    fits = constant.kind not in FLOAT8 and values.min(initial=0) >= -128 and values.max(initial=0) <= 127
    if constant.scales.size > 1:
        axes = _output_axes(readers, name, values.ndim)
        fits = fits and not constant.block and range(values.ndim)[constant.axis] in axes
    if not fits:
        return constant.floats()
    return None if constant.kind == TensorProto.INT8 and not constant.has_zero_point else values.astype(np.int8)


def _output_axes(readers: Readers, name: str, ndim: int) -> set[int]:
    """Axes by which a tensor may have scales: that of the outputs where a product reads it as weights, else any."""
    axes = set(range(ndim))
    for node, place in readers.get(name, ()):
        options = attributes(node)
        if node.op_type == "Transpose":
            order = options.get("perm", range(ndim)[::-1])
            axes &= {order[i] for i in _output_axes(readers, node.output[0], ndim)}
        elif place == 1 and node.op_type in ("MatMul", "Gemm", *OUTPUTS):
            axes &= {0 if options.get("transB") else OUTPUTS.get(node.op_type, ndim - 1)}
    return axes
