"""ONNX Runtime's quantized operators in terms of ONNX's others: QLinear ones between DequantizeLinear and QuantizeLinear (QDQ),
as the compiler takes them; dynamic ones, whose activations find their scale at run time, in float with their weights' values.

The operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, and ONNX's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper, numpy_helper

from edgeemo.adapt.block_weights import block_weights

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Linear:
    """Operator that a QLinear one stands for, and where each quantized operand (value, scale, zero point) and the result's scale
    stand."""

    kind: str
    operands: tuple[int, ...]
    result: int
    first: int = 0  # operands before the quantized ones
    dropped: tuple[str, ...] = ()  # attributes that the plain operator does not have


LINEAR = {
    "QLinearConv": Linear("Conv", (0, 3), 6, dropped=("channels_last",)),
    "QLinearMatMul": Linear("MatMul", (0, 3), 6),
    "QLinearAdd": Linear("Add", (0, 3), 6),
    "QLinearMul": Linear("Mul", (0, 3), 6),
    "QLinearSigmoid": Linear("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": Linear("LeakyRelu", (0,), 3),
    "QLinearSoftmax": Linear("Softmax", (0,), 3, dropped=("opset",)),
    "QLinearAveragePool": Linear("AveragePool", (0,), 3, dropped=("channels_last",)),
    "QLinearGlobalAveragePool": Linear("GlobalAveragePool", (0,), 3, dropped=("channels_last",)),
    "QLinearWhere": Linear("Where", (1, 4), 7, first=1),
}
QOPERATORS = {
    *LINEAR, "QLinearConcat", "QGemm", "QuantizeLinear", "DequantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM", "MatMulNBits",
}  # fmt: skip


def without_qoperators(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """``model`` (opset 13 or later) itself where it has no such operator. Raises EdgeEmoError naming a node whose scales, weights
    or options are not known here."""
    rewriter = _Rewriter(model, source)
    if not any(rewriter.way(n) for n in model.graph.node):
        return model
    for node in model.graph.node:
        if way := rewriter.way(node):
            way(node)
        else:
            rewriter.nodes.append(node)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:]
    del plain.graph.value_info[:]  # an int32 sum is a float now
    plain.graph.node.extend(rewriter.nodes)
    plain.graph.initializer.extend(rewriter.made)
    return plain


class _Rewriter:
    def __init__(self, model: onnx.ModelProto, source: str) -> None:
        self.source = source
        self.nodes: list[onnx.NodeProto] = []
        self.made: list[onnx.TensorProto] = []
        self.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.dynamic: dict[str, str] = {}  # a dynamically quantized value: what it is in float
        self.sums: set[str] = set()  # integers once
        self.ways: dict[str, Callable[[onnx.NodeProto], None]] = {
            **dict.fromkeys(LINEAR, self._linear),
            "QLinearConcat": self._concat,
            "QGemm": self._gemm,
            "DynamicQuantizeLinear": self._dynamic,
            "MatMulInteger": self._integer,
            "ConvInteger": self._integer,
            "DynamicQuantizeMatMul": self._dynamic_product,
            "MatMulIntegerToFloat": self._to_float,
            "DynamicQuantizeLSTM": self._lstm,
            "MatMulNBits": self._block_product,
        }

    def way(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], None] | None:
        if node.domain == MICROSOFT and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self._same
        if node.op_type == "Add" and self.sums & set(node.input):
            return self._biased
        return self.ways.get(node.op_type) if node.domain in ("", "ai.onnx", MICROSOFT) else None

    # -- static ----------------------------------------------------------------------------------------------------------
    def _same(self, node: onnx.NodeProto) -> None:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.domain = ""
        self.nodes.append(kept)

    def _linear(self, node: onnx.NodeProto) -> None:
        what = LINEAR[node.op_type]
        inputs = list(node.input[: what.first])
        for at in what.operands:
            axis = None
            if at != what.operands[0] and what.kind in ("Conv", "MatMul"):  # weights: a scale per output channel
                axis = 0 if what.kind == "Conv" else -1
            inputs.append(self._dequantized(node, at, axis))
        if what.kind == "Conv" and len(node.input) > 8 and node.input[8]:
            inputs.append(self._bias(node, node.input[8], node.input[1], node.input[4]))
        if self._option(node, "channels_last"):
            raise self._refusal(node, "has its channels last")
        self._quantized(node, what.kind, inputs, what.result, what.dropped)

    def _concat(self, node: onnx.NodeProto) -> None:
        parts = [self._dequantized(node, at) for at in range(2, len(node.input), 3)]
        self._quantized(node, "Concat", parts, 0)

    def _gemm(self, node: onnx.NodeProto) -> None:
        turned = self._option(node, "transB")
        inputs = [self._dequantized(node, 0), self._dequantized(node, 3, axis=0 if turned else 1)]
        if len(node.input) > 6 and node.input[6]:
            inputs.append(self._bias(node, node.input[6], node.input[1], node.input[4], self._option(node, "alpha", 1.0)))
        if len(node.input) > 7 and node.input[7]:
            self._quantized(node, "Gemm", inputs, 7)
        else:
            self._add(node, "Gemm", inputs, node.output[0])

    def _dequantized(self, node: onnx.NodeProto, at: int, axis: int | None = None) -> str:
        """The operand at ``at``; ``axis`` is where a weight has a scale per channel."""
        value, scale, zero = node.input[at : at + 3]
        scales = self.constants.get(scale)
        if scales is None:
            raise self._refusal(node, f"has a scale that is no constant ({scale})")
        weight = self.constants.get(value) if axis is not None else None
        if axis is not None and weight is None:
            axis = None  # a product of two activations
        if weight is not None and not self._symmetric(weight, zero):
            # No kernel takes those as integers; as floats a kernel does.
            return self._values(node, at, at + 2, 0 if axis is None else axis, scale=at + 1)
        if weight is not None and weight.dtype == np.uint8:
            value = self._constant(f"{value}_as_int8", (weight.astype(np.int16) - 128).astype(np.int8))
            zero = self._constant(f"{zero}_as_int8", (self.constants[zero].astype(np.int16) - 128).astype(np.int8))
        result = f"{value}_dequantized_{node.output[0]}"
        per_channel = weight is not None and scales.size > 1
        inputs = [value, self._grid(scale, per_channel), *([self._grid(zero, per_channel)] if zero else [])]
        along = {} if weight is None or not per_channel else {"axis": (axis or 0) % weight.ndim}
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [result], name=result, **along))
        return result

    def _symmetric(self, weight: np.ndarray, zero: str) -> bool:
        zeros = self.constants.get(zero)
        middle = 128 if weight.dtype == np.uint8 else 0
        return bool((zeros == middle).all()) if zeros is not None else middle == 0

    def _grid(self, name: str, per_channel: bool) -> str:
        """A scale or zero point as QDQ has it: of a channel each a vector, of the whole tensor a scalar."""
        value = self.constants[name]
        return self._constant(f"{name}_{'each' if per_channel else 'of_all'}", value.reshape(-1 if per_channel else ()))

    def _bias(self, node: onnx.NodeProto, bias: str, a_scale: str, b_scale: str, factor: float = 1.0) -> str:
        """int32, in steps of the product of its operands' scales."""
        a, b = self.constants.get(a_scale), self.constants.get(b_scale)
        if a is None or b is None:
            raise self._refusal(node, "has a scale that is no constant")
        scale = (a.reshape(()) * b.reshape(-1 if b.size > 1 else ()) * np.float32(factor)).astype(np.float32)
        result = f"{bias}_dequantized_{node.output[0]}"
        inputs = [bias, self._constant(f"{result}_scale", scale)]
        self.nodes.append(
            helper.make_node("DequantizeLinear", inputs, [result], name=result, **({"axis": 0} if b.size > 1 else {}))
        )
        return result

    def _quantized(self, node: onnx.NodeProto, kind: str, inputs: list[str], at: int, dropped: tuple[str, ...] = ()) -> None:
        """``kind``, and its result quantized by the scale and zero point among the node's inputs from ``at``."""
        result = f"{node.output[0]}_in_float"
        self._add(node, kind, inputs, result, dropped)
        given = [name for name in node.input[at : at + 2] if name]
        if any(name not in self.constants for name in given):
            raise self._refusal(node, "has a scale that is no constant")
        grid = [self._grid(name, per_channel=False) for name in given]
        self.nodes.append(helper.make_node("QuantizeLinear", [result, *grid], [node.output[0]], name=f"{result}_quantized"))

    # -- dynamic ---------------------------------------------------------------------------------------------------------
    def _dynamic(self, node: onnx.NodeProto) -> None:
        """Its value stays float, its scale is 1: what multiplies by that scale afterwards stays as it is."""
        self.dynamic[node.output[0]] = node.input[0]
        self._constant(node.output[1], np.array(1.0, np.float32))

    def _integer(self, node: onnx.NodeProto) -> None:
        weight = self._values(node, 1, 3, axis=0 if node.op_type == "ConvInteger" else -1)
        self._add(node, node.op_type.removesuffix("Integer"), [self._float(node), weight], node.output[0])
        self.sums.add(node.output[0])

    def _biased(self, node: onnx.NodeProto) -> None:
        """Early versions of the quantizer add a bias in steps of the sum's scale, rounded at run time: it stays as it is."""
        made = {n.output[0]: n for n in self.nodes}
        for bias in set(node.input) - self.sums:
            while (step := made.get(bias)) and step.op_type in ("Reshape", "Unsqueeze", "Cast", "Floor", "Round"):
                if step.op_type in ("Cast", "Floor", "Round"):
                    step.op_type = "Identity"
                    del step.attribute[:]
                bias = step.input[0]
        self.nodes.append(node)

    def _to_float(self, node: onnx.NodeProto) -> None:
        self._product(node, self._float(node), self._values(node, 1, 5, -1, scale=3), 6)

    def _dynamic_product(self, node: onnx.NodeProto) -> None:
        self._product(node, node.input[0], self._values(node, 1, 3, -1, scale=2), 4)

    def _block_product(self, node: onnx.NodeProto) -> None:
        if len(node.input) > 4 and node.input[4]:
            raise self._refusal(node, "has its weights in an order of their own (g_idx)")
        names = [node.input[at] if at < len(node.input) else "" for at in (1, 2, 3)]
        packed, scales, zeros = (self.constants.get(name) for name in names)
        if packed is None or scales is None or (zeros is None and names[2]):
            raise self._refusal(node, "has weights that are no constant")
        shape = int(self._option(node, "K")), int(self._option(node, "N"))
        bits, block = int(self._option(node, "bits", 4)), int(self._option(node, "block_size", 32))
        try:
            weights = block_weights(packed, scales, zeros, shape, bits, block)
        except ValueError as error:
            raise self._refusal(node, f"has weights whose sizes do not fit ({error})") from error
        self._product(node, node.input[0], self._constant(f"{names[0]}_in_float", weights), 5)

    def _product(self, node: onnx.NodeProto, value: str, weight: str, bias: int) -> None:
        dropped = tuple(a.name for a in node.attribute)  # a MatMul has none
        if len(node.input) > bias and node.input[bias]:
            result = f"{node.output[0]}_without_bias"
            self._add(node, "MatMul", [value, weight], result, dropped)
            self.nodes.append(helper.make_node("Add", [result, node.input[bias]], [node.output[0]], name=f"{result}_added"))
        else:
            self._add(node, "MatMul", [value, weight], node.output[0], dropped)

    def _lstm(self, node: onnx.NodeProto) -> None:
        """Weights are (directions, inputs, 4 hidden) here, the other way about in ONNX's own."""
        inputs = list(node.input[:8])
        for at, scale in ((1, 8), (2, 10)):
            values = self.constants[self._values(node, at, scale + 1, axis=None, scale=scale)]
            inputs[at] = self._constant(f"{node.input[at]}_turned", np.ascontiguousarray(values.transpose(0, 2, 1)))
        while inputs and not inputs[-1]:
            inputs.pop()
        kept = helper.make_node("LSTM", inputs, list(node.output), name=node.name)
        kept.attribute.extend(node.attribute)
        self.nodes.append(kept)

    def _float(self, node: onnx.NodeProto) -> str:
        if node.input[0] not in self.dynamic:
            raise self._refusal(node, "takes integers that are not quantized right before it")
        return self.dynamic[node.input[0]]

    def _values(self, node: onnx.NodeProto, at: int, zero: int, axis: int | None, scale: int | None = None) -> str:
        """A constant weight's values in float: minus its zero point, and times its scale where that is the node's own; both by
        channel along ``axis``, or (None: a recurrence's weights) by direction and perhaps channel, which are first and last."""
        names = [node.input[i] if i is not None and i < len(node.input) else "" for i in (at, zero, scale)]
        weight, zeros, scales = (self.constants.get(name) for name in names)
        if weight is None or any(found is None and name for found, name in zip((zeros, scales), names[1:], strict=True)):
            raise self._refusal(node, "has weights that are no constant")

        def along(values: np.ndarray) -> np.ndarray:
            if axis is None:
                return values.reshape(len(weight), 1, -1)
            return values.reshape([-1 if i == axis % weight.ndim else 1 for i in range(weight.ndim)] if values.size > 1 else ())

        values = weight.astype(np.float32) - (0 if zeros is None else along(zeros.astype(np.float32)))
        if scales is not None:
            values = values * along(scales)
        return self._constant(f"{names[0]}_in_float", values.astype(np.float32))

    # -- parts -----------------------------------------------------------------------------------------------------------
    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = value
            self.made.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, node: onnx.NodeProto, kind: str, inputs: list[str], output: str, dropped: tuple[str, ...] = ()) -> None:
        plain = helper.make_node(kind, inputs, [output], name=node.name)
        plain.attribute.extend(a for a in node.attribute if a.name not in dropped)
        self.nodes.append(plain)

    def _option(self, node: onnx.NodeProto, name: str, default: float = 0) -> float:
        found = next((a for a in node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def _refusal(self, node: onnx.NodeProto, why: str) -> EdgeEmoError:
        return EdgeEmoError(f"{self.source}: node {node.name or node.output[0]}: {node.op_type} {why}")
