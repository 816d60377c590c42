"""Report of quantization by layer: scale, error against float with the layer's true inputs, size."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from onnx import helper

from edgeemo.onnxlib.session import open_session
from edgeemo.quantize.calibration.observer import Scalings, fake_quantize
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.layers import Layer, Tokens

AT_ONCE = 1 << 23  # bytes of inputs or outputs of a layer


@dataclass(frozen=True)
class LayerReport:
    name: str
    op: str
    precision: str
    scale: float | None  # of the input; None where it stays float
    clip_ratio: float | None  # threshold / largest value seen; 1 clips nothing
    sqnr_db: float | None  # 10 log10(|y|^2 / |y - y_quantized|^2)
    bytes: int
    float_bytes: int
    asked: str = "int8"  # what the recipe says; another where the compiler has no kernel of it


@dataclass(frozen=True)
class QuantizationReport:
    recipe: str
    threshold: str  # the recipe's
    clips: int
    steps: int
    data_sha256: str
    layers: tuple[LayerReport, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def sqnr_db(reference: np.ndarray, value: np.ndarray) -> float:
    """Signal to quantization noise in dB, infinite for equal arrays, over float64 sums."""
    noise = float(((reference.astype(np.float64) - value) ** 2).sum())
    return decibels(float((reference.astype(np.float64) ** 2).sum()), noise)


def decibels(signal: float, noise: float) -> float:
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)


def report_layers(layers: list[Layer], calibration: Calibration, scalings: Scalings) -> tuple[LayerReport, ...]:
    reports = []
    for layer in layers:
        found = calibration.ranges.get(layer.input)
        values = calibration.samples.get(layer.input)
        scale = clip_ratio = error = None
        if layer.precision == "int8" and found is not None:
            how = scalings[layer.input]
            scale, clip_ratio = found.scale(how), found.clip_ratio(how.threshold)
            if values is not None:
                int8 = functools.partial(fake_quantize, scale=scale, qmax=how.qmax)
                error = _layer_error(layer, values, int8, layer.dequantized_weight)
        elif layer.precision == "fp16" and values is not None:
            error = _layer_error(layer, values, lambda x: x, layer.weight.astype(np.float16))
        reports.append(
            LayerReport(
                layer.name,
                layer.op,
                layer.precision,
                scale,
                clip_ratio,
                error,
                layer.weight_bytes,
                layer.weight.size * 4,
                layer.asked,
            )
        )
    return tuple(reports)


def report_tokens(tokens: list[Tokens], calibration: Calibration, scalings: Scalings) -> tuple[LayerReport, ...]:
    """Queries, keys and values: the error is of the tensor itself."""
    reports = []
    for part in tokens:
        found, how, values = calibration.ranges[part.input], scalings[part.input], calibration.samples.get(part.input)
        scale = found.scale(how)
        error = None if values is None else sqnr_db(values, fake_quantize(values, scale, how.qmax))
        reports.append(LayerReport(part.name, "Tokens", "int8", scale, found.clip_ratio(how.threshold), error, 0, 0))
    return tuple(reports)


def _layer_error(layer: Layer, values: np.ndarray, rounded: Callable[[np.ndarray], np.ndarray], weight: np.ndarray) -> float:
    """SQNR of the layer with ``rounded`` inputs and ``weight``, a few inputs at a time."""
    exact, quantized = layer_runner(layer, layer.weight), layer_runner(layer, weight)
    shift: np.ndarray | float = 0.0
    if layer.bias_shift is not None:
        shift = layer.bias_shift.reshape(-1, *[1] * (layer.weight.ndim - 2)) if layer.op == "Conv" else layer.bias_shift
    signal = noise = 0.0
    start, at_once = 0, 1
    while start < len(values):
        piece = values[start : start + at_once]
        reference = exact(piece)
        off = reference - quantized(rounded(piece)) - shift
        signal += float(np.vdot(reference, reference.astype(np.float64)))
        noise += float(np.vdot(off, off.astype(np.float64)))
        start += at_once
        at_once = max(1, AT_ONCE // max(values[:1].nbytes, reference[:1].nbytes))
    return decibels(signal, noise)


def layer_runner(layer: Layer, weight: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The layer alone (without bias) on given inputs, in ONNX Runtime."""
    node = onnx.NodeProto()
    node.CopyFrom(layer.node)
    node.input[:], node.output[:] = ["x", "w"], ["y"]
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "y")]
    held = [onnx.numpy_helper.from_array(weight.astype(np.float32), "w")]
    model = helper.make_model(
        helper.make_graph([node], "layer", infos[:1], infos[1:], held), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    session = open_session(model)
    return lambda values: np.asarray(session.run(None, {"x": np.ascontiguousarray(values, np.float32)})[0])


def run_layer(layer: Layer, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return layer_runner(layer, weight)(values)
