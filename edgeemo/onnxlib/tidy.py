"""Removes from a file what is legal and means nothing, refuses what means nothing that can run: before anything else looks at a
graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import defs, numpy_helper


def tidy(model: onnx.ModelProto, source: str) -> None:
    """In place: no initializers among the inputs, no missing inputs at the end of a node's list.

    Raises EdgeEmoError naming a node that lacks an input it needs, or an initializer whose data is not of its shape.
    """
    constants = {i.name for i in model.graph.initializer}
    if any(i.name in constants for i in model.graph.input):
        inputs = [i for i in model.graph.input if i.name not in constants]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    for tensor in model.graph.initializer:
        _check_data(tensor, source)
    for node in all_nodes(model.graph):
        while node.input and not node.input[-1]:
            node.input.pop()
        _check_inputs(node, source)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of subgraphs, too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from all_nodes(inner)


def _check_data(tensor: onnx.TensorProto, source: str) -> None:
    try:
        numpy_helper.to_array(tensor)
    except Exception as error:  # numpy's and protobuf's types
        raise EdgeEmoError(
            f"{source}: initializer {tensor.name}: its data does not fit its shape {list(tensor.dims)}; export the file again"
        ) from error


def _check_inputs(node: onnx.NodeProto, source: str) -> None:
    """Missing inputs ("") only where the operator has an option: native code reads through the others."""
    if not defs.has(node.op_type, node.domain):
        return
    formal = defs.get_schema(node.op_type, node.domain).inputs
    for at, name in enumerate(node.input):
        option = formal[min(at, len(formal) - 1)].option if formal else None
        if not name and option != defs.OpSchema.FormalParameterOption.Optional:
            who = f"node {node.name or node.output[0]} ({node.op_type})"
            raise EdgeEmoError(f"{source}: {who}: its input {at} is missing; export the file again")
