"""Which nodes of an ONNX graph are layers with weights, and what a recipe does with each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import numpy_helper

from edgeemo.quantize.calibration.observer import ActivationScaling
from edgeemo.quantize.recipe import Recipe
from edgeemo.quantize.weights import WeightScaling, dequantize_weight, quantize_weight
from edgeemo.targets.capabilities import INT8_MAX, WINOGRAD_K_S8, convolution_fits, depthwise_fits, reduction_run


@dataclass(frozen=True)
class Layer:
    """A MatMul, Gemm or Conv with constant weights. ``axis`` is the weights' output-channel axis."""

    name: str
    op: str
    node: onnx.NodeProto
    input: str
    weight_name: str
    weight: np.ndarray
    axis: int
    precision: str  # int8, fp16 or fp32
    scaling: WeightScaling
    activations: ActivationScaling  # of its input
    asked: str = "int8"  # precision that the recipe gives it: int8 where there is no kernel is fp32
    rounded: np.ndarray | None = None  # its int8 weights, where they are not the nearest (rounding.py)
    bias_shift: np.ndarray | None = None  # (channels,) float32, to be added to its bias

    @cached_property
    def scales(self) -> np.ndarray:
        """Scales of int8 weights, (channels,) float32."""
        return self.scaling.scales(self.weight, self.axis)

    @property
    def int8_weight(self) -> np.ndarray:
        if self.rounded is not None:
            return self.rounded
        return quantize_weight(self.weight, self.scales, self.axis, self.scaling.qmax)

    def rounded_as(self, weight: np.ndarray, shift: np.ndarray | None) -> Layer:
        """The layer with these int8 weights, and what they move its mean by."""
        return replace(self, rounded=weight, bias_shift=shift)

    @property
    def dequantized_weight(self) -> np.ndarray:
        return dequantize_weight(self.int8_weight, self.scales, self.axis)

    @property
    def weight_bytes(self) -> int:
        size = {"int8": 1, "fp16": 2, "fp32": 4}[self.precision]
        channels = self.weight.shape[self.axis]
        return self.weight.size * size + (4 * channels if self.precision == "int8" else 0)


@dataclass(frozen=True)
class Tokens:
    """Queries, keys or values that a product of two activations reads, before a cache holds them: int8 or fp32."""

    name: str
    input: str
    precision: str


def find_tokens(model: onnx.ModelProto, rings: set[str], recipe: Recipe) -> list[Tokens]:
    """The tensors between projections and attention: what a MatMul of activations reads through nothing but reshapes,
    transposes and a cache (``rings``: graph inputs that are kept in place), back to a Split.

    Quantized there, caches hold int8 values, and the products are int8 products. An attention without a cache stays in float:
    no kernel would gain by it. An attention of which the recipe keeps a part in float is left whole.
    """
    constants = {i.name for i in model.graph.initializer}
    producer = {o: n for n in model.graph.node for o in n.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            consumers.setdefault(tensor, []).append(node)

    cached: set[str] = set()  # splits of which a part goes into a cache

    def origin(tensor: str) -> str | None:
        moved = held = False
        while (node := producer.get(tensor)) is not None:
            if node.op_type in ("Transpose", "Reshape"):
                tensor, moved = node.input[0], True
            elif node.op_type == "Concat" and len(node.input) == 2 and node.input[0] in rings:
                tensor, held = node.input[1], True
            else:
                if not moved or node.op_type != "Split" or len(consumers[tensor]) != 1:
                    return None
                if held:
                    cached.add(node.name)
                return tensor
        return None

    found: dict[str, list[Tokens]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and not constants & set(node.input):
            for tensor in filter(None, (origin(t) for t in node.input)):
                split = producer[tensor]
                part = list(split.output).index(tensor)
                name = f"{node.name.rsplit('.', 1)[0]}.{'qkv'[part] if len(split.output) == 3 else part}"
                found.setdefault(split.name, []).append(
                    Tokens(name, tensor, "int8" if recipe.precision(name) == "int8" else "fp32")
                )
    whole = (g for split, g in found.items() if split in cached and all(t.precision == "int8" for t in g))
    return [t for group in whole for t in sorted(group, key=lambda t: t.input)]


def find_layers(model: onnx.ModelProto, recipe: Recipe) -> list[Layer]:
    """The graph's layers in order, with the precision the recipe gives them. Raises EdgeEmoError if there is none."""
    constants = {i.name: i for i in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or len(node.input) < 2 or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        if weight.dtype != np.float32 or weight.ndim < 2:
            continue
        axis = 0 if node.op_type == "Conv" or (node.op_type == "Gemm" and _attribute(node, "transB")) else weight.ndim - 1
        precision = asked = recipe.precision(node.name)
        if precision == "int8" and not has_int8_kernel(node, weight):
            precision = "fp32"
        scalings = recipe.weight_scaling(node.name), recipe.activation_scaling(node.name)
        if not gains_by_winograd(node, weight):
            scalings = replace(scalings[0], qmax=INT8_MAX), replace(scalings[1], qmax=INT8_MAX)
        layers.append(
            Layer(node.name, node.op_type, node, node.input[0], node.input[1], weight, axis, precision, *scalings, asked)
        )
    if not layers:
        raise EdgeEmoError("the model has no MatMul, Gemm or Conv with constant float32 weights: there is nothing to quantize")
    return layers


def has_int8_kernel(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    """Whether the compiler has one: through INT8 and back around a float operator, a layer would be slower than in float."""
    if node.op_type != "Conv":
        return True
    return _is_product(node, weight) or depthwise_fits("s8", _attribute(node, "group", 1), weight.shape)


def gains_by_winograd(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    """Whether the compiler has a kernel that is quicker where activations and weights leave some of int8 out; all others are
    given all of it."""
    if node.op_type != "Conv":
        k = weight.shape[-1] if node.op_type == "Gemm" and _attribute(node, "transB") else weight.shape[-2]
        return reduction_run("s8", 1, k, ()) % WINOGRAD_K_S8 == 0
    groups = _attribute(node, "group", 1)
    return _is_product(node, weight) and reduction_run("s8", groups, weight.shape[1], weight.shape[2:]) % WINOGRAD_K_S8 == 0


def _is_product(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    """Whether the products' kernels take a convolution."""
    dilations = next((list(a.ints) for a in node.attribute if a.name == "dilations"), [1] * (weight.ndim - 2))
    return convolution_fits("s8", _attribute(node, "group", 1), weight.shape[1], dilations)


def _attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)
