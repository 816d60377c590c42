"""What quantization did to each layer: scale, error against float with the layer's true inputs, size."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from edgeemo.quantize.calibrate import Calibration
from edgeemo.quantize.layers import Layer, Tokens
from edgeemo.quantize.observers import Scalings, fake_quantize

KEY = "edgeemo.quantization"  # metadata_props


@dataclass(frozen=True)
class LayerReport:
    name: str
    op: str
    precision: str
    scale: float | None  # of the input; None where it stays float
    clipped: float | None  # threshold / largest value seen; 1 clips nothing
    sqnr_db: float | None  # 10 log10(|y|^2 / |y - y_quantized|^2)
    bytes: int
    float_bytes: int


@dataclass(frozen=True)
class QuantizationReport:
    recipe: str
    method: str  # the recipe's observer
    clips: int
    steps: int
    data_sha256: str
    layers: tuple[LayerReport, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def sqnr_db(reference: np.ndarray, value: np.ndarray) -> float:
    """Signal to quantization noise in dB, infinite for equal arrays, over float64 sums."""
    noise = float(((reference.astype(np.float64) - value) ** 2).sum())
    signal = float((reference.astype(np.float64) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)


def report_layers(layers: list[Layer], calibration: Calibration, scalings: Scalings) -> tuple[LayerReport, ...]:
    reports = []
    for layer in layers:
        found = calibration.ranges.get(layer.input)
        values = calibration.samples.get(layer.input)
        scale = clipped = error = None
        if layer.precision == "int8" and found is not None:
            how = scalings[layer.input]
            scale, clipped = found.scale(how), found.kept(how.observer)
            if values is not None:
                int8 = run_layer(layer, fake_quantize(values, scale, how.largest), layer.dequantized_weight)
                error = sqnr_db(run_layer(layer, values, layer.weight), int8)
        elif layer.precision == "fp16" and values is not None:
            error = sqnr_db(run_layer(layer, values, layer.weight), run_layer(layer, values, layer.weight.astype(np.float16)))
        reports.append(
            LayerReport(layer.name, layer.op, layer.precision, scale, clipped, error, layer.weight_bytes, layer.weight.size * 4)
        )
    return tuple(reports)


def report_tokens(tokens: list[Tokens], calibration: Calibration, scalings: Scalings) -> tuple[LayerReport, ...]:
    """Queries, keys and values: the error is of the tensor itself."""
    reports = []
    for part in tokens:
        found, how, values = calibration.ranges[part.input], scalings[part.input], calibration.samples.get(part.input)
        scale = found.scale(how)
        error = None if values is None else sqnr_db(values, fake_quantize(values, scale, how.largest))
        reports.append(LayerReport(part.name, "Tokens", "int8", scale, found.kept(how.observer), error, 0, 0))
    return tuple(reports)


def run_layer(layer: Layer, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The layer alone (without bias) on given inputs, by the ONNX reference evaluator."""
    node = onnx.NodeProto()
    node.CopyFrom(layer.node)
    del node.input[:], node.output[:]
    node.input.extend(["x", "w"])
    node.output.append("y")
    values_in = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "w")]
    graph = helper.make_graph([node], "layer", values_in, [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    (y,) = ReferenceEvaluator(model).run(None, {"x": values, "w": weight.astype(np.float32)})
    return np.asarray(y)
