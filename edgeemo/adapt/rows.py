"""Undoes what flattens items' rows into one matrix, (batch, ..., n) to (rows, n): behind it nobody can tell whose row is whose.

Old exporters write softmax and fully connected layers so. Over the last dimension both are the same without it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeemo.adapt.fold import Shape, dims


def keep_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {v.name: dims(v) for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    flattened: dict[str, str] = {}  # name of a matrix -> the same with its rows apart
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = flattened.get(node.input[0]) if node.input else None
        if (apart := _rows_apart(node, shapes, constants)) is not None:
            flattened[node.output[0]] = node.input[0]
            if len(apart) < len(shapes[node.input[0]]):  # its last dimensions became one
                name = f"{node.output[0]}_apart"
                model.graph.initializer.append(numpy_helper.from_array(np.array(apart, dtype=np.int64), f"{name}_shape"))
                nodes.append(helper.make_node("Reshape", [node.input[0], f"{name}_shape"], [name], name=name))
                flattened[node.output[0]] = name
        if node.op_type == "Softmax" and source is not None and _axis(node) in (-1, 1):
            whole = f"{node.output[0]}_whole"
            nodes.append(helper.make_node("Softmax", [source], [whole], name=node.name, axis=-1))
        elif node.op_type in ("Gemm", "MatMul") and source is not None and _is_layer(node, constants):
            whole = f"{node.output[0]}_whole"
            nodes += _layer(node, source, whole, constants, model)
        else:
            nodes.append(node)
            continue
        # For whoever reads the matrix; one that only shapes it back reads the same numbers.
        width = shapes.get(node.output[0], (0,))[-1]
        to = f"{node.output[0]}_rows"
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, width], dtype=np.int64), to))
        nodes.append(helper.make_node("Reshape", [whole, to], [node.output[0]], name=f"{node.name or whole}.rows"))
        flattened[node.output[0]] = whole
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _without_unread(model)


def _rows_apart(node: onnx.NodeProto, shapes: dict[str, Shape], constants: dict[str, np.ndarray]) -> list[int] | None:
    """Of what makes a matrix: the shape (-1 for the batch) that has the matrix's columns last and all before them apart; None for
    any other node, and where columns are of more than the last dimensions."""
    if node.op_type not in ("Reshape", "Flatten"):
        return None
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(after) != 2 or len(before) < 3 or not isinstance(after[1], int):
        return None
    width, kept = 1, len(before)
    while kept > 0 and width < after[1] and isinstance(size := before[kept - 1], int):
        width, kept = width * size, kept - 1
    leading = [d if isinstance(d, int) else -1 for d in before[:kept]]
    return [*leading, width] if width == after[1] and kept > 1 and leading.count(-1) == 1 else None


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), -1)


def _is_layer(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    plain = all(a.f == 1.0 for a in node.attribute if a.name in ("alpha", "beta")) and not any(
        a.i for a in node.attribute if a.name == "transA"
    )
    return plain and node.input[1] in constants and all(name in constants for name in node.input[2:] if name)


def _layer(
    node: onnx.NodeProto, source: str, whole: str, constants: dict[str, np.ndarray], model: onnx.ModelProto
) -> list[onnx.NodeProto]:
    """A Gemm (or MatMul) as MatMul and Add over the last dimension."""
    weight = constants[node.input[1]]
    if any(a.i for a in node.attribute if a.name == "transB"):
        weight = np.ascontiguousarray(weight.T)
    name = f"{whole}_weight"
    model.graph.initializer.append(numpy_helper.from_array(weight, name))
    bias = node.input[2] if len(node.input) > 2 else ""
    if not bias:
        return [helper.make_node("MatMul", [source, name], [whole], name=node.name)]
    product = helper.make_node("MatMul", [source, name], [f"{whole}_product"], name=node.name)
    return [product, helper.make_node("Add", [f"{whole}_product", bias], [whole], name=f"{node.name or whole}.bias")]


def _without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without nodes that nobody reads, and constants likewise."""
    wanted = {o.name for o in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    held = [i for i in model.graph.initializer if i.name in wanted]
    nodes = kept[::-1]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(held)
    return model
