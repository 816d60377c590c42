"""The first node of a graph with which something goes wrong, found by halving: of thirty nodes five parts are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto

from edgeemo.onnxlib.graph import dims, label, replace_nodes
from edgeemo.onnxlib.metadata import STREAM


def first_bad_node(model: onnx.ModelProto, bad: Callable[[onnx.ModelProto], bool]) -> onnx.NodeProto | None:
    """``bad`` tells of a part of the graph, up to and with one node, whether it is wrong. None where no part is bad by itself."""
    known = possible_outputs(model)
    nodes = [n for n in model.graph.node if n.output and n.output[0] in known]
    good, at = -1, len(nodes)
    while at - good > 1:
        middle = (good + at) // 2
        good, at = (good, middle) if bad(part_of(model, [known[nodes[middle].output[0]]])) else (middle, at)
    return None if at == len(nodes) else nodes[at]


def tensor_of(node: onnx.NodeProto) -> str:
    """A node for messages."""
    return f"tensor {node.output[0]} of node {label(node)} ({node.op_type})"


def possible_outputs(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """The tensors of a graph that a part of it may give: those of known sizes, the batch first."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output) if _can_be_output(v)}


def _can_be_output(value: onnx.ValueInfoProto) -> bool:
    shape, kind = dims(value), value.type.tensor_type.elem_type
    whole = (TensorProto.INT8, TensorProto.UINT8)  # between QuantizeLinear and DequantizeLinear
    return bool(shape) and isinstance(shape[0], str) and all(isinstance(d, int) for d in shape[1:]) and kind not in whole


def part_of(model: onnx.ModelProto, values: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The part of a model that makes ``values``, its outputs then, without a stream contract."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    kept: list[onnx.NodeProto] = []
    wanted = {value.name for value in values}
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            kept.insert(0, node)
            wanted |= set(node.input)
    replace_nodes(part, kept)
    del part.graph.output[:]
    part.graph.output.extend(values)
    onnx.helper.set_model_props(part, {p.key: p.value for p in model.metadata_props if p.key != STREAM})
    return part
