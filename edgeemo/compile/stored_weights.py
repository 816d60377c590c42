"""Weights that a file stores as integers, as kernels take them: int8, no zero point, a scale for all or for each output.

Files have others: uint8, four bits, float8, zero points, scales by blocks or along the reduction. What fits int8 once its zero
point is taken off becomes that; the rest becomes float32, since TVM's importer lacks some of it, and what it takes ends in stock
loops.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

STORED = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
FLOAT8 = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ)
OUTPUTS = {"Conv": 0, "ConvTranspose": 1}  # axis of a weight that counts outputs


def with_plain_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself where nothing is to be done, else a copy that computes the same."""
    constants = {i.name: i for i in model.graph.initializer}
    rewritten: dict[str, tuple[np.ndarray, bool]] = {}  # by a node's output: its weights, and whether they are int8
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            plain = _plain(model, node, constants)
            if plain is not None:
                rewritten[node.output[0]] = plain
    if not rewritten:
        return model
    model = copy.deepcopy(model)
    nodes = []
    for node in model.graph.node:
        values, is_int8 = rewritten.get(node.output[0], (None, False)) if node.output else (None, False)
        if values is None:
            nodes.append(node)
        elif is_int8:
            name = f"{node.output[0]}_int8"
            model.graph.initializer.append(numpy_helper.from_array(values, name))
            node.input[:] = [name, node.input[1]]
            nodes.append(node)
        else:
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _without_unread(model)


def _plain(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[np.ndarray, bool] | None:
    """Weights in another form, and whether that is int8; None where they may stay, or are not constant."""
    stored, scale, *zeros = (constants.get(name) for name in node.input if name)
    if stored is None or scale is None or None in zeros or stored.data_type not in (*STORED, *FLOAT8):
        return None
    if scale.data_type != TensorProto.FLOAT:
        return None
    attributes = {a.name: a.i for a in node.attribute}
    axis, block, scales = attributes.get("axis", 1), attributes.get("block_size", 0), numpy_helper.to_array(scale)
    if stored.data_type in FLOAT8:  # whose zero points are 0
        floats = numpy_helper.to_array(stored).astype(np.float32)
        return floats * _spread(scales, floats.shape, axis, block), False
    values = numpy_helper.to_array(stored).astype(np.int32)
    zero = numpy_helper.to_array(zeros[0]).astype(np.int32) if zeros and zeros[0] is not None else np.zeros(1, np.int32)
    whole = values - _spread(zero, values.shape, axis, block)
    fits = whole.min(initial=0) >= -128 and whole.max(initial=0) <= 127
    of_outputs = not block and axis % max(values.ndim, 1) in _output_axes(model, node.output[0], values.ndim)
    if fits and (scales.size == 1 or of_outputs):
        return None if stored.data_type == TensorProto.INT8 and not np.any(zero) else (whole.astype(np.int8), True)
    return (whole * _spread(scales, values.shape, axis, block)).astype(np.float32), False


def _output_axes(model: onnx.ModelProto, name: str, ndim: int) -> set[int]:
    """Axes by which a tensor may have scales: that of the outputs where a product reads it as weights, else any."""
    axes = set(range(ndim))
    for node in model.graph.node:
        places = [i for i, read in enumerate(node.input) if read == name]
        if not places:
            continue
        attributes = {a.name: a for a in node.attribute}
        if node.op_type == "Transpose":
            order = list(attributes["perm"].ints) if "perm" in attributes else list(range(ndim))[::-1]
            axes &= {order[i] for i in _output_axes(model, node.output[0], ndim)}
        elif places == [1] and node.op_type in ("MatMul", "Gemm", *OUTPUTS):
            transposed = node.op_type == "Gemm" and "transB" in attributes and attributes["transB"].i
            axes &= {0 if transposed else OUTPUTS.get(node.op_type, ndim - 1)}
    return axes


def _spread(values: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """Scales or zero points as they lie over a tensor: one for all, one for each index of an axis, or for each block of it."""
    if values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis)[tuple(slice(0, n) for n in shape)]
    return values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def _without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """Integers that nothing reads any more are left out: the importer does not know all of their types."""
    read = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    read |= {name for node in model.graph.node for a in node.attribute for name in _captured(a)}
    kept = [i for i in model.graph.initializer if i.name in read or i.data_type not in (*STORED, *FLOAT8)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _captured(attribute: onnx.AttributeProto) -> set[str]:
    """Names that an attribute's graphs read, their own included."""
    graphs = [attribute.g, *attribute.graphs]
    return {
        name
        for graph in graphs
        for node in graph.node
        for name in (*node.input, *(n for inner in node.attribute for n in _captured(inner)))
    }
