"""Rewrites operators by the tables in operators/, until nothing is left to rewrite."""

from __future__ import annotations

import onnx

from edgeemo.adapt.constants import fold_constants
from edgeemo.adapt.operators import convolution, numbers, places, pooling, resize, spectrum
from edgeemo.adapt.operators.context import Context, Lowering
from edgeemo.onnxlib.graph import Maker, constants_of, known_types, label, replace_nodes

TABLES = (convolution, numbers, places, pooling, resize, spectrum)
LOWERINGS: dict[str, Lowering] = {name: lowering for table in TABLES for name, lowering in table.LOWERINGS.items()}
ROUNDS = 4  # what one rewrite makes another may rewrite


def simplify(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Raises EdgeEmoError naming a node that is too large for its rewrite."""
    for _ in range(ROUNDS):
        model = fold_constants(model)
        if not _once(model, source):
            break
    return model


def _once(model: onnx.ModelProto, source: str) -> bool:
    context = Context(known_types(model), constants_of(model), source)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in model.graph.node:
        make = Maker(model, label(node))
        if node.op_type in LOWERINGS and node.input and LOWERINGS[node.op_type](node, context, make):
            make.nodes[-1].name = label(node)
            nodes += make.nodes
            changed = True
        else:
            nodes.append(node)
    replace_nodes(model, nodes)
    return changed
