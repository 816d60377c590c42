"""Writes the decisions into the graph: plain QDQ ONNX that ONNX Runtime runs and edgeemo compile fuses.

    x -> QuantizeLinear -> DequantizeLinear -> MatMul <- DequantizeLinear <- int8 weight     (int8 layers)
    x -> QuantizeLinear -> Clip -> DequantizeLinear -> ...    (where a recipe leaves some of int8 out, as torch.onnx writes it)
    x -> Conv <- Cast(float) <- float16 weight                                               (fp16 layers)
    split(qkv) -> QuantizeLinear -> DequantizeLinear -> Concat with the cache -> attention   (caches then hold int8 values)

One quantize/dequantize pair per activation, however many layers read it. Biases stay float32: they are added to the int32 sums
after scaling, and cost nothing there.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeemo.onnxlib.tidy import all_nodes
from edgeemo.quantize.layers import Layer, Tokens
from edgeemo.targets.capabilities import INT8_MAX


def rewrite(
    model: onnx.ModelProto, layers: list[Layer], tokens: list[Tokens], activations: dict[str, tuple[float, int]]
) -> onnx.ModelProto:
    """A quantized copy of ``model``; ``activations`` holds the scale and the largest quantized magnitude of every int8 layer's
    input, and of every one of ``tokens``, by tensor name."""
    model = copy.deepcopy(model)
    graph = model.graph
    constants = {i.name: i for i in graph.initializer}
    nodes = {n.name: n for n in graph.node}
    before: dict[str, list[onnx.NodeProto]] = {}  # name of a node -> nodes to put in front of it
    dequantized: dict[str, str] = {}
    added: dict[str, onnx.TensorProto] = {"int8_zero": numpy_helper.from_array(np.int8(0), "int8_zero")}

    for layer in layers:
        node = nodes[layer.name]
        front = before.setdefault(layer.name, [])
        if layer.precision == "fp16":
            half = f"{layer.weight_name}_fp16"
            if half not in added:
                added[half] = numpy_helper.from_array(layer.weight.astype(np.float16), half)
                front.append(
                    helper.make_node("Cast", [half], [f"{half}_cast"], name=f"{layer.name}.cast_weight", to=TensorProto.FLOAT)
                )
            node.input[1] = f"{half}_cast"
        elif layer.precision == "int8":
            if layer.input not in dequantized:
                front.extend(_activation_pair(layer.input, *activations[layer.input], added))
                dequantized[layer.input] = f"{layer.input}_dequantized"
            node.input[0] = dequantized[layer.input]
            node.input[1] = _int8_weight(layer, front, added)
            if layer.bias_shift is not None:
                _shift_bias(model, node, layer, added)
    for part in tokens:
        (reader,) = (n for n in graph.node if part.input in n.input)
        before.setdefault(reader.name, []).extend(_activation_pair(part.input, *activations[part.input], added))
        reader.input[list(reader.input).index(part.input)] = f"{part.input}_dequantized"
    ordered = [n for node in graph.node for n in (*before.get(node.name, []), node)]
    del graph.node[:]
    graph.node.extend(ordered)
    read = {name for node in all_nodes(graph) for name in node.input} | {o.name for o in graph.output}
    kept = [c for name, c in constants.items() if name in read]  # not the weights and biases that others replace
    del graph.initializer[:]
    graph.initializer.extend([*kept, *added.values()])
    onnx.checker.check_model(model, full_check=True)
    return model


def bias_of(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[onnx.NodeProto, int] | None:
    """The node that adds a layer's constant bias, and which of its inputs that is; None where there is none: a Gemm or Conv has
    it itself, a MatMul's is added by the one node that reads it."""
    constants = {i.name: list(i.dims) for i in model.graph.initializer}
    if node.op_type in ("Conv", "Gemm"):
        scaled = any(a.name in ("alpha", "beta") and a.f != 1.0 for a in node.attribute)
        found = len(node.input) > 2 and node.input[2] in constants and not scaled
        return (node, 2) if found else None
    readers = [n for n in model.graph.node if node.output[0] in n.input]
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in {o.name for o in model.graph.output}:
        return None
    (place,) = (
        (i for i, name in enumerate(readers[0].input) if name != node.output[0]) if len(set(readers[0].input)) == 2 else (-1,)
    )
    shape = constants.get(readers[0].input[place]) if place >= 0 else None
    return (readers[0], place) if shape and all(d == 1 for d in shape[:-1]) else None


def _shift_bias(model: onnx.ModelProto, node: onnx.NodeProto, layer: Layer, added: dict[str, onnx.TensorProto]) -> None:
    """Adds what rounding the weights took from the layer's mean; layers of one weight and one bias share the new one."""
    found = bias_of(model, node)
    assert found is not None and layer.bias_shift is not None
    adder, place = found
    name = f"{layer.weight_name}_{adder.input[place]}_shifted"
    if name not in added:
        (bias,) = (numpy_helper.to_array(i) for i in model.graph.initializer if i.name == adder.input[place])
        added[name] = numpy_helper.from_array((bias + layer.bias_shift).astype(bias.dtype), name)
    adder.input[place] = name


def _activation_pair(tensor: str, scale: float, qmax: int, added: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    scale_name = f"{tensor}_scale"
    added[scale_name] = numpy_helper.from_array(np.float32(scale), scale_name)
    quantized, dequantized = f"{tensor}_quantized", f"{tensor}_dequantized"
    nodes = [helper.make_node("QuantizeLinear", [tensor, scale_name, "int8_zero"], [quantized], name=f"{tensor}.quantize")]
    if qmax < INT8_MAX:
        bounds = [f"int8_{bound}" for bound in (-qmax, qmax)]
        added |= {name: numpy_helper.from_array(np.int8(b), name) for name, b in zip(bounds, (-qmax, qmax), strict=True)}
        whole, quantized = quantized, f"{tensor}_clipped"
        nodes.append(helper.make_node("Clip", [whole, *bounds], [quantized], name=f"{tensor}.clip"))
    back = helper.make_node("DequantizeLinear", [quantized, scale_name, "int8_zero"], [dequantized], name=f"{tensor}.dequantize")
    return [*nodes, back]


def _int8_weight(layer: Layer, front: list[onnx.NodeProto], added: dict[str, onnx.TensorProto]) -> str:
    """The dequantized weight's name; of one that several layers share, made before the first of them."""
    name = layer.weight_name
    if f"{name}_int8" in added:
        return f"{name}_dequantized"
    scales = layer.scales
    zeros = f"int8_zeros_{len(scales)}"
    added[f"{name}_int8"] = numpy_helper.from_array(layer.int8_weight, f"{name}_int8")
    added[f"{name}_scale"] = numpy_helper.from_array(scales, f"{name}_scale")
    added[zeros] = numpy_helper.from_array(np.zeros(len(scales), dtype=np.int8), zeros)
    front.append(
        helper.make_node(
            "DequantizeLinear",
            [f"{name}_int8", f"{name}_scale", zeros],
            [f"{name}_dequantized"],
            name=f"{layer.name}.dequantize_weight",
            axis=layer.axis,
        )
    )
    return f"{name}_dequantized"
