"""A graph of one item as one of a batch: a new first dimension, node by node, as JAX's vmap adds it.

A file may be written for one item only (1 in Reshape's constants, rows of all items in one matrix, no batch at all). What it
computes for that item is what it means, and says nothing of where a batch would go: so every tensor gets a dimension of its own
for it, and every node is rewritten by a rule of its operator (batching_rules.py). The 1 that a file has where its batch
was would stay behind it; a tensor that begins with one is kept without.
"""

from __future__ import annotations

import onnx

from edgeemo.adapt.batched_graph import BatchedGraph
from edgeemo.adapt.batching_rules import RULES
from edgeemo.onnxlib.graph import Maker, Shape, dims, inputs_of, known_types, label, replace_nodes, sized, without_unread


def vectorize(model: onnx.ModelProto, shapes: dict[str, Shape], source: str) -> onnx.ModelProto:
    """``model`` with static shapes of one item; ``shapes``: of its inputs, with BATCH where that is to be (nowhere: in front).
    The batch comes first in what is returned.

    Raises EdgeEmoError naming a node whose operator has no rule.
    """
    graph = BatchedGraph(model, source)
    for info in inputs_of(model):
        graph.begin_input(info, shapes[info.name])
    for node in model.graph.node:
        graph.node, graph.make = node, Maker(model, f"{label(node)}.batched")
        if not any(graph.has_batch(n) for n in node.input):
            graph.nodes.append(node)
            continue
        if any(not graph.is_static(n) for n in (*node.input, *node.output) if n):
            raise graph.refusal("the shapes around it depend on the data")
        if node.op_type not in RULES:
            raise graph.refusal("adapt has no rule that gives it a batch")
        RULES[node.op_type](graph)
        graph.take()
    for info in model.graph.output:
        graph.end_output(info)
    replace_nodes(model, graph.nodes)
    del model.graph.value_info[:]  # shapes of one item
    return without_unread(model)


def items_are_apart(model: onnx.ModelProto) -> bool:
    """Whether every tensor that ``model`` computes has the batch as a dimension of its own: a compiled step cannot tell whose row
    is whose otherwise. What is only shaped so and back is the same numbers."""
    two, three = (_sizes(model, n) for n in (2, 3))
    made: set[str] = {i.name for i in inputs_of(model)}
    for node in model.graph.node:
        if not any(n in made for n in node.input):
            continue
        made |= set(node.output)
        if node.op_type in ("Flatten", "Reshape"):
            continue
        for a, b in ((two[n], three[n]) for n in node.output if n in two and n in three):
            differ = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
            if len(a) != len(b) or differ != [(2, 3)]:
                return False
    return True


def _sizes(model: onnx.ModelProto, batch: int) -> dict[str, Shape]:
    shapes = {i.name: dims(i) for i in inputs_of(model)}
    known = {name: dims(value) for name, value in known_types(sized(model, shapes, batch)).items()}
    return {name: shape for name, shape in known.items() if all(isinstance(d, int) for d in shape)}
