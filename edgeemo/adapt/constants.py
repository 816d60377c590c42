"""Constants: those that nodes make of constants are computed."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeemo.onnxlib.graph import constants_of, replace_nodes, without_unread

LARGEST = 1 << 24  # elements: a constant that is made larger stays a node
# Weights stay as small as they are stored; draws are not constants.
KEPT = {"DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which what depends on no input is an initializer, but for dequantized and half-precision weights."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    known = constants_of(plain)
    opset = [o for o in plain.opset_import if o.domain in ("", "ai.onnx")]
    nodes = []
    made: set[str] = set()
    for node in plain.graph.node:
        values = _values(node, known, opset)
        if values is None:
            nodes.append(node)
            continue
        for name, value in zip(node.output, values, strict=False):
            if name:
                known[name] = np.asarray(value)
                made.add(name)
    replace_nodes(plain, nodes)
    plain.graph.initializer.extend(numpy_helper.from_array(known[name], name) for name in made)
    return without_unread(plain)


def _values(node: onnx.NodeProto, known: dict[str, np.ndarray], opset: list[onnx.OperatorSetIdProto]) -> list | None:
    """Value of the node; None where it depends on an input, or is not to be computed."""
    if node.domain not in ("", "ai.onnx") or node.op_type in KEPT or any(n and n not in known for n in node.input):
        return None
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return None
    if node.op_type == "Cast" and known[node.input[0]].dtype == np.float16:
        return None
    info = [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(n for n in node.input if n)]
    results = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    graph = onnx.helper.make_graph([node], "constant", info, results)
    try:
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opset))
        found = iter(evaluator.run(None, {i.name: known[i.name] for i in info}))
    except Exception:  # whatever it is, the node stays one
        return None
    values = [next(found) if n else None for n in node.output]
    plain = all(v is None or (isinstance(v, np.ndarray | np.generic) and np.size(v) <= LARGEST) for v in values)
    return values if plain and all(v is None or np.asarray(v).dtype.kind in "fiub" for v in values) else None
