"""Parts that can be quantized on their own: layers (those that share a weight together) and attentions, with what each costs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import onnx

from edgeemo.quantize.layers import Layer, gains_by_winograd
from edgeemo.quantize.plan import Plan, plan
from edgeemo.quantize.recipe import Recipe
from edgeemo.targets.board import BoardTarget
from edgeemo.targets.capabilities import FMLA_F16, INT8_MAX, WINOGRAD

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """``members``: names of layers, or of an attention's q, k and v. ``macs``: per stream and step."""

    name: str
    op: str
    members: tuple[str, ...]
    layers: tuple[Layer, ...]  # none in an attention
    tensors: tuple[str, ...]  # its inputs
    macs: int

    @property
    def pattern(self) -> str:
        names = "|".join(re.escape(n) for n in self.members)
        return f"^{names}$" if len(self.members) == 1 else f"^({names})$"

    def bytes(self, precision: str) -> int:
        """Bytes of its weights, shared ones once."""
        return replace(self.layers[0], precision=precision).weight_bytes if self.layers else 0

    def cycles(self, precision: str, recipe: Recipe, board: BoardTarget) -> float | None:
        """Estimated from the board's modelled MACs per cycle; None where nobody has modelled it. ``recipe``: how much of int8 it
        uses."""
        reduced = (
            precision == "int8"
            and WINOGRAD in board.kernels.microkernels
            and any(self._by_winograd(layer, recipe) for layer in self.layers)
        )
        halves = precision == "fp16" and FMLA_F16 in board.kernels.microkernels
        rate = board.macs_per_cycle.get("int8_winograd" if reduced else "fp16_halves" if halves else precision)
        return None if rate is None else self.macs / rate

    def _by_winograd(self, layer: Layer, recipe: Recipe) -> bool:
        qmax = recipe.activation_scaling(layer.name).qmax + recipe.weight_scaling(layer.name).qmax
        return qmax <= INT8_MAX and gains_by_winograd(layer.node, layer.weight)


def find_parts(planned: Plan) -> list[Part]:
    """In the graph's order. What the recipe keeps in float is among them: an analysis says what that buys."""
    whole = plan(planned.model, "", planned.recipe.keep((".",), "int8", "analysis"))
    shapes = _shapes(planned.model)
    observed = set(planned.observed)
    by_weight: dict[str, list[Layer]] = {}
    for layer in whole.layers:
        if layer.input in observed:
            by_weight.setdefault(layer.weight_name, []).append(layer)
    parts = []
    for layers in by_weight.values():
        names, inputs = tuple(x.name for x in layers), tuple(dict.fromkeys(x.input for x in layers))
        macs = sum(math.prod(shapes.get(x.node.output[0], ())) * x.weight.size // x.weight.shape[x.axis] for x in layers)
        parts.append(Part(names[0], layers[0].op, names, tuple(layers), inputs, macs))
    constants = {i.name for i in planned.model.graph.initializer}
    products = [n for n in planned.model.graph.node if n.op_type == "MatMul" and not constants & set(n.input)]
    attentions: dict[str, list[tuple[str, str]]] = {}
    for token in whole.tokens:
        attentions.setdefault(token.name.rsplit(".", 1)[0], []).append((token.name, token.input))
    for name, tokens in attentions.items():
        mine = [n for n in products if n.name.rsplit(".", 1)[0] == name]
        macs = sum(math.prod(shapes.get(n.output[0], ())) * shapes.get(n.input[0], (0,))[-1] for n in mine)
        parts.append(Part(name, "Attention", tuple(t for t, _ in tokens), (), tuple(t for _, t in tokens), macs))
    order = {n.output[0]: i for i, n in enumerate(planned.model.graph.node) if n.output}
    order |= {o: i for i, n in enumerate(planned.model.graph.node) for o in n.output}
    return sorted(parts, key=lambda p: min(order.get(t, -1) for t in p.tensors))


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Shapes of one stream's tensors by name: the batch, which has a name for a size, counts as one."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    return {v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim) for v in values}
