"""How far two arrays are apart, and how far rounding alone may bring them."""

from __future__ import annotations

import numpy as np
import onnx

from edgeemo.onnxlib.graph import Maker, constants_of, replace_nodes

SMALLEST = 1e-6  # a reference that is smaller counts as this large
LAST_BITS = 2.0**-22  # of an input: half of what float32 distinguishes
AMPLIFIED = 16  # a program rounds in every operator, not in the inputs alone


def difference(got: np.ndarray, reference: np.ndarray, norms: bool = False) -> float:
    """The largest difference over the reference's largest magnitude; ``norms``: the differences' norm over the reference's.

    0 where both are the same infinity or no number, infinite where only one is, or shapes have different numbers of elements.
    """
    a, b = (v.astype(np.float64).ravel() for v in (got, reference))
    if a.size != b.size:
        return float("inf")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    off, its = a[~same], b[~same]
    if not off.size:
        return 0.0
    if not (np.isfinite(off).all() and np.isfinite(its).all()):
        return float("inf")
    whole = b[np.isfinite(b)]
    if norms:
        return float(np.linalg.norm(off - its)) / max(float(np.linalg.norm(whole)), SMALLEST)
    return float(np.abs(off - its).max()) / max(float(np.abs(whole).max(initial=0)), SMALLEST)


def nearby(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs that differ in their last bits: where a model makes much of these, no two programs agree better."""
    signs = np.random.default_rng(1)
    return {
        n: a if a.dtype.kind != "f" else (a * (1 + LAST_BITS * signs.choice([-1, 1], a.shape))).astype(a.dtype)
        for n, a in feed.items()
    }


def rounded_otherwise(model: onnx.ModelProto) -> onnx.ModelProto:
    """A quantized model with what goes into each quantizer off in its last bits, as sums in another order are: now and then a
    value between two levels goes to the other, and deep networks make much of that. ``nearby`` inputs would not show it, since
    the first quantizer takes those bits away."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    computed = {name for node in model.graph.node for name in node.output} | {i.name for i in model.graph.input}
    scales, signs, nodes = constants_of(model), np.random.default_rng(1), list[onnx.NodeProto]()
    for i, node in enumerate(changed.graph.node):
        if node.op_type == "QuantizeLinear" and node.input[0] in computed and node.input[1] in scales:
            make, kind = Maker(changed, f"rounded_otherwise{i}"), scales[node.input[1]].dtype  # the value's, too
            factor = make.constant(1 + 2 * np.finfo(kind).eps * signs.choice([-1, 1]), kind)
            node.input[0] = make.op("Mul", node.input[0], factor)
            nodes += make.nodes
        nodes.append(node)
    replace_nodes(changed, nodes)
    return changed
