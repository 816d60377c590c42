"""How each operator is rewritten for a batch in front of what one item has (vectorize.py), by name in RULES.

Where a tensor begins with the 1 that the file keeps for its batch, and the operator leaves that alone, the node stays as it is
and the batch takes the place of the 1; else the batch is a further dimension in front, and axes move by one.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeemo.adapt.batched_graph import BatchedGraph
from edgeemo.adapt.rows import ELEMENTWISE
from edgeemo.onnxlib.graph import attributes

Rule = Callable[[BatchedGraph], None]


def elementwise(g: BatchedGraph) -> None:
    """Operands broadcast from their last dimensions on: a batch of fewer dimensions gets ones behind it."""
    node, rank = g.node, len(g.shape(g.node.output[0]))
    if node.op_type == "Clip" and any(g.has_batch(n) for n in node.input[1:]):
        raise g.refusal("its bounds are computed")
    whole = all(len(g.shape(n)) == rank and g.begins_with_one(n) for n in node.input if g.has_batch(n))
    small = all(len(g.shape(n)) < rank or g.begins_with_one(n) for n in node.input if n and not g.has_batch(n))
    if rank and whole and small and g.begins_with_one(node.output[0]):
        g.emit([g.stored(n, drop=True) for n in node.input], drop=True)
    else:
        g.emit([g.at_rank(n, rank) for n in node.input], drop=False)


def quantized(g: BatchedGraph) -> None:
    """One scale, or one for every place of an axis."""
    if any(g.has_batch(n) for n in g.node.input[1:]):
        raise g.refusal("its scale is computed")
    if g.constant(1).size > 1:
        _over_axis(g, "axis", 1)
    else:
        elementwise(g)


def _over_axis(g: BatchedGraph, name: str, default: int) -> None:
    """An operator over one dimension, given by an attribute, of its first input."""
    node, rank = g.node, len(g.shape(g.node.input[0]))
    if any(g.has_batch(n) for n in node.input[1:]):
        raise g.refusal("an input that belongs to all items is computed of one")
    axis = int(attributes(node).get(name, default)) % rank
    drop = axis > 0 and g.begins_with_one(node.input[0])
    g.emit([g.stored(node.input[0], drop), *node.input[1:]], drop, **{name: axis if drop else axis + 1})


def over_axis(name: str, default: int) -> Rule:
    return lambda g: _over_axis(g, name, default)


def concat(g: BatchedGraph) -> None:
    """A constant part is given to every item."""
    node = g.node
    rank = len(g.shape(node.output[0]))
    axis = int(attributes(node)["axis"]) % rank
    drop = axis > 0 and g.begins_with_one(node.output[0])
    like = next(n for n in node.input if g.has_batch(n))
    parts = [g.stored(n, drop) if g.has_batch(n) else g.for_all(n, drop, like) for n in node.input]
    g.emit(parts, drop, axis=axis if drop else axis + 1)


def gather(g: BatchedGraph) -> None:
    """At constant places of what has a batch, or at places that have one of a constant's first dimension."""
    node, options = g.node, attributes(g.node)
    data, places = node.input
    axis = int(options.get("axis", 0)) % len(g.shape(data))
    if g.has_batch(data) and g.has_batch(places):
        raise g.refusal("each item has places of its own in a table of its own")
    if g.has_batch(places):
        if axis:
            raise g.refusal("its places are not in the first dimension")
        drop = g.begins_with_one(places)
        g.emit([data, g.stored(places, drop)], drop)
        return
    drop = axis > 0 and g.begins_with_one(data)
    g.emit([g.stored(data, drop), places], drop, axis=axis if drop else axis + 1)


def gather_elements(g: BatchedGraph) -> None:
    node = g.node
    axis = int(attributes(node).get("axis", 0)) % len(g.shape(node.input[0]))
    like = next(n for n in node.input if g.has_batch(n))
    both = [g.stored(n, False) if g.has_batch(n) else g.for_all(n, False, like) for n in node.input]
    g.emit(both, drop=False, axis=axis + 1)


def reduction(g: BatchedGraph) -> None:
    """Over constant axes, all where there are none."""
    node, rank = g.node, len(g.shape(g.node.input[0]))
    options = attributes(node)
    given = g.constant(1).tolist() if len(node.input) > 1 and node.input[1] else list(options.get("axes", ()))
    if not given and options.get("noop_with_empty_axes", 0):
        elementwise(g)
        return
    axes = [a % rank for a in given] if given else list(range(rank))
    drop = 0 not in axes and g.begins_with_one(node.input[0])
    moved = g.make.constant([a if drop else a + 1 for a in axes], np.int64)
    g.emit([g.stored(node.input[0], drop), moved], drop, axes=None)


def slices(g: BatchedGraph) -> None:
    node, rank = g.node, len(g.shape(g.node.input[0]))
    starts = g.constant(1)
    axes = g.constant(3) if len(node.input) > 3 and node.input[3] else np.arange(len(starts))
    axes = axes % rank
    drop = not (axes == 0).any() and g.begins_with_one(node.input[0])
    moved = g.make.constant(axes if drop else axes + 1, np.int64)
    g.emit([g.stored(node.input[0], drop), *node.input[1:3], moved, *node.input[4:]], drop)


def pad(g: BatchedGraph) -> None:
    node, rank = g.node, len(g.shape(g.node.input[0]))
    pads = g.constant(1)
    if len(node.input) > 3 and node.input[3]:
        axes = g.constant(3) % rank
        whole = np.zeros(2 * rank, dtype=np.int64)
        whole[axes], whole[rank + axes] = pads[: len(axes)], pads[len(axes) :]
        pads = whole
    begin, end = pads[:rank], pads[rank:]
    drop = not begin[:1].any() and not end[:1].any() and g.begins_with_one(node.input[0])
    moved = pads if drop else np.concatenate([[0], begin, [0], end])
    g.emit([g.stored(node.input[0], drop), g.make.constant(moved, np.int64), *node.input[2:3]], drop)


def transpose(g: BatchedGraph) -> None:
    node, rank = g.node, len(g.shape(g.node.input[0]))
    perm = list(attributes(node).get("perm", range(rank)[::-1]))
    drop = perm[:1] == [0] and g.begins_with_one(node.input[0])
    g.emit([g.stored(node.input[0], drop)], drop, perm=perm if drop else [0, *(p + 1 for p in perm)])


def reshape(g: BatchedGraph) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: an item's numbers stay in their order."""
    g.reshaped(g.node.input[0])


def expand(g: BatchedGraph) -> None:
    rank = len(g.shape(g.node.output[0]))
    g.emit([g.at_rank(g.node.input[0], rank), g.make.constant([1, *g.shape(g.node.output[0])], np.int64)], drop=False)


def tile(g: BatchedGraph) -> None:
    g.emit([g.stored(g.node.input[0], False), g.make.constant([1, *g.constant(1)], np.int64)], drop=False)


def matmul(g: BatchedGraph) -> None:
    """Matrices of an item are one batch of theirs; a layer (one row for an item) stays one."""
    a, b = g.node.input
    ranks = len(g.shape(a)), len(g.shape(b))
    if g.has_batch(a) and g.has_batch(b) and ranks[0] == ranks[1] > 2 and g.begins_with_one(a) and g.begins_with_one(b):
        g.emit([g.stored(a, True), g.stored(b, True)], drop=True)
        return
    if not g.has_batch(b) and ranks[1] == 2 and ranks[0] >= 2 and g.begins_with_one(a):
        g.emit([g.stored(a, True), b], drop=True)
        return
    rank = max(*ranks, 2)
    names = []
    for n, alone in ((a, [1, -1]), (b, [-1, 1])):
        vector = len(g.shape(n)) == 1
        if vector and g.has_batch(n):
            names.append(g.make.reshape(n, [0, *[1] * (rank - 2), *(g.shape(n)[0] if d < 0 else d for d in alone)]))
        else:
            names.append(g.make.reshape(n, alone) if vector else g.at_rank(n, rank))
    if min(ranks) > 1:
        g.emit(names, drop=False)
    else:
        g.reshaped(g.make.op("MatMul", *names))


def gemm(g: BatchedGraph) -> None:
    node, options = g.node, attributes(g.node)
    a, b = node.input[:2]
    if g.begins_with_one(a) and not options.get("transA", 0) and not any(g.has_batch(n) for n in node.input[1:]):
        g.emit([g.stored(a, True), *node.input[1:]], drop=True)
        return
    operands = []
    for name, flag in ((a, "transA"), (b, "transB")):
        stored = g.stored(name, False)
        order = [0, 2, 1] if g.has_batch(name) else [1, 0]
        operands.append(g.make.op("Transpose", stored, perm=order) if options.get(flag, 0) else stored)
    found = g.make.op("MatMul", *operands)
    scales = [float(options.get(name, 1.0)) for name in ("alpha", "beta")]
    if scales[0] != 1:
        found = g.make.op("Mul", found, g.make.constant(scales[0], np.float32))
    if len(node.input) > 2 and node.input[2]:
        bias = g.at_rank(node.input[2], 2)
        bias = bias if scales[1] == 1 else g.make.op("Mul", bias, g.make.constant(scales[1], np.float32))
        found = g.make.op("Add", found, bias)
    g.reshaped(found)


def einsum(g: BatchedGraph) -> None:
    """One more letter, of those that have a batch and of the result."""
    equation = attributes(g.node)["equation"].decode().replace(" ", "")
    if "->" not in equation or "." in equation:
        raise g.refusal(f"its equation {equation} does not name every dimension")
    terms, result = equation.split("->")
    letter = next(c for c in string.ascii_letters if c not in equation)
    named = [letter + t if g.has_batch(n) else t for n, t in zip(g.node.input, terms.split(","), strict=True)]
    g.emit([g.stored(n, False) for n in g.node.input], drop=False, equation=f"{','.join(named)}->{letter}{result}")


def over_channels(g: BatchedGraph) -> None:
    """An operator that takes (N, channels, places...): N is the batch where it is 1, else one more dimension of places."""
    node = g.node
    if any(g.has_batch(n) for n in node.input[1:]):
        raise g.refusal("its weights are computed")
    if g.begins_with_one(node.input[0]):
        g.emit([g.stored(node.input[0], True), *node.input[1:]], drop=True)
    else:
        _rows_as_places(g)


# Windows of one row: what an attribute of one place's dimension is for the other.
WINDOWS = {"kernel_shape": [1], "strides": [1], "dilations": [1]}
POOLING = frozenset(("AveragePool", "LpPool", "MaxPool"))


def _rows_as_places(g: BatchedGraph) -> None:
    """(batch, N, C, L) as (batch, C, N, L), whose windows are one row high."""
    node, options = g.node, attributes(g.node)
    if len(g.shape(node.input[0])) != 3 or not (node.op_type in POOLING or node.op_type == "Conv"):
        raise g.refusal(f"it takes {g.shape(node.input[0])[0]} rows of an item at once")
    changed: dict[str, Any] = {n: [*WINDOWS[n], *options[n]] for n in WINDOWS if n in options}
    if "pads" in options:
        begin, end = options["pads"]
        changed["pads"] = [0, begin, 0, end]
    rest = list(node.input[1:])
    if node.op_type == "Conv":
        rest[0] = g.make.constant(np.expand_dims(g.constant(1), 2), np.float32)
    turned = g.make.op("Transpose", g.stored(node.input[0], False), perm=[0, 2, 1, 3])
    found = g.make.op(node.op_type, turned, *rest, **{**options, **changed})
    g.make.op("Transpose", found, perm=[0, 2, 1, 3], output=node.output[0])
    g.dropped[node.output[0]] = False


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE - {"QuantizeLinear", "DequantizeLinear"}, elementwise),
    **dict.fromkeys(
        ("And", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Celu", "GreaterOrEqual", "IsInf", "IsNaN", "LessOrEqual",
         "Mod", "Or", "Shrink", "Sinh", "Cosh", "Tan", "Acos", "Asin", "Atan", "Acosh", "Asinh", "Atanh", "ThresholdedRelu",
         "Xor"),
        elementwise,
    ),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantized),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LayerNormalization"), over_axis("axis", -1)),
    **dict.fromkeys(("ArgMax", "ArgMin", "Split"), over_axis("axis", 0)),
    "Concat": concat,
    "Gather": gather,
    "GatherElements": gather_elements,
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
         "ReduceSum", "ReduceSumSquare"),
        reduction,
    ),
    "Slice": slices,
    "Pad": pad,
    "Transpose": transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
    "Expand": expand,
    "Tile": tile,
    "MatMul": matmul,
    "Gemm": gemm,
    "Einsum": einsum,
    **dict.fromkeys(
        ("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalMaxPool",
         "InstanceNormalization", "LpPool", "LRN", "MaxPool", "Resize", "SpaceToDepth"),
        over_channels,
    ),
}  # fmt: skip
