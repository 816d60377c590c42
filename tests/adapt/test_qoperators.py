"""Files of ONNX Runtime's quantizers in their operator formats come out as QDQ, or in float where they were dynamic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeemo_runtime import EdgeEmoError
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from edgeemo.adapt.adapt import adapt, run
from edgeemo.onnxlib.feeds import made_up
from tests.graphs import compiled, graph, recurrence

pytestmark = pytest.mark.slow


class Inputs(CalibrationDataReader):
    def __init__(self, model: onnx.ModelProto) -> None:
        self.left = [made_up(model, 1, seed) for seed in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def image_model() -> onnx.ModelProto:
    """Every operator that ONNX Runtime's quantizer has a QLinear form of."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["c"], ["r"], alpha=0.1),
        helper.make_node("Sigmoid", ["r"], ["s"]),
        helper.make_node("Mul", ["r", "s"], ["m"]),
        helper.make_node("Add", ["m", "r"], ["a"]),
        helper.make_node("Concat", ["a", "m"], ["j"], axis=1),
        helper.make_node("AveragePool", ["j"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["d"], name="conv2"),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["h"], name="gemm", transB=1),
        helper.make_node("MatMul", ["h", "w4"], ["o"], name="matmul"),
        helper.make_node("Softmax", ["o"], ["y"], axis=-1),
    ]
    shapes = {"w1": (16, 4, 3, 3), "b1": (16,), "w2": (16, 32, 1, 1), "w3": (12, 16), "b3": (12,), "w4": (12, 7)}
    constants = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:], initial=1))).astype(np.float32) for n, s in shapes.items()}
    return graph(nodes, {"x": ["n", 4, 8, 8]}, {"y": ["n", 7]}, constants, 17)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_qlinear_operators_compile_to_int8_kernels(weights: QuantType, per_channel: bool, tmp_path: Path) -> None:
    model = image_model()
    onnx.save(model, tmp_path / "float.onnx")
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": weights, "per_channel": per_channel}
    quantize_static(tmp_path / "float.onnx", tmp_path / "q.onnx", Inputs(model), QuantFormat.QOperator, **kinds)
    quantized = onnx.load(tmp_path / "q.onnx")
    operators = {n.op_type for n in quantized.graph.node}
    assert {"QLinearConv", "QLinearMatMul", "QGemm", "QLinearAdd", "QLinearConcat", "QLinearGlobalAveragePool"} <= operators
    adapted = adapt(quantized, "q", {}, {})
    assert adapted.noise is not None  # how much depends on the processor: ONNX Runtime's sums may saturate
    assert not {n.op_type for n in adapted.model.graph.node} & operators - {"QuantizeLinear", "DequantizeLinear", "Softmax"} - {
        n.op_type for n in model.graph.node
    }
    made, function = compiled(adapted.model, tmp_path)
    # Unsigned weights are not always symmetric: those that are not become floats.
    kernel = "gemm_s8" if weights == QuantType.QInt8 else "gemm_"
    assert sum(count for name, count in made.kernels.items() if name.startswith(kernel)) == 4, (made.kernels, made.stock_products)
    feed = made_up(adapted.model, 5)
    got = function.run(feed)["y"]
    wanted, floats = run(adapted.model, feed)["y"], run(adapt(model, "m", {}, {}).model, feed)["y"]
    assert np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)
    assert np.linalg.norm(got - floats) < 0.1 * np.linalg.norm(floats)


@pytest.mark.parametrize("per_channel", [True, False])
def test_dynamically_quantized_products_and_recurrences_come_out_in_float(per_channel: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    model = recurrence("LSTM", "bidirectional", hidden=16)
    weights = {"w1": (32, 24), "w2": (24, 7), "bias": (24,)}
    for name, shape in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) * 0.3, name))
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["out", "w1"], ["p"], name="product"),
            helper.make_node("Add", ["p", "bias"], ["q"]),
            helper.make_node("Relu", ["q"], ["relu"]),
            helper.make_node("MatMul", ["relu", "w2"], ["answer"], name="last"),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, [1, 5, 7]))
    onnx.save(model, tmp_path / "float.onnx")
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # its shape inference loses the recurrence's result
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "q.onnx", per_channel=per_channel, extra_options=options)
    quantized = onnx.load(tmp_path / "q.onnx")
    assert {"DynamicQuantizeLinear", "MatMulInteger", "DynamicQuantizeLSTM"} <= {n.op_type for n in quantized.graph.node}
    adapted = adapt(quantized, "q", {}, {})
    assert adapted.noise is not None and adapted.noise < 0.1
    _, function = compiled(adapted.model, tmp_path)
    feed = made_up(adapted.model, 5)
    # Only its weights are rounded now.
    floats = run(adapt(model, "m", {}, {}).model, feed)["answer"]
    got = function.run(feed)["answer"]
    np.testing.assert_allclose(got, run(adapted.model, feed)["answer"], rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(got - floats) < 0.03 * np.linalg.norm(floats)


def test_a_bias_rounded_at_run_time_stays_as_it_is() -> None:
    """ONNX Runtime's quantizer before 1.8 had it so, added to the integers of ConvInteger."""
    rng = np.random.default_rng(2)
    weight, bias = rng.integers(-127, 128, (6, 2, 3, 3), np.int8), rng.standard_normal(6).astype(np.float32)
    constants = {
        "w": weight,
        "w_scale": np.float32(0.01),
        "zero": np.int8(0),
        "b": bias,
        "shape": np.array([1, 6, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "x_scale", "x_zero"]),
        helper.make_node("Mul", ["x_scale", "w_scale"], ["scale"]),
        helper.make_node("Div", ["b", "scale"], ["steps"]),
        helper.make_node("Floor", ["steps"], ["floor"]),
        helper.make_node("Cast", ["floor"], ["integer"], to=onnx.TensorProto.INT32),
        helper.make_node("Reshape", ["integer", "shape"], ["along"]),
        helper.make_node("ConvInteger", ["q", "w", "x_zero", "zero"], ["sum"], name="conv"),
        helper.make_node("Add", ["sum", "along"], ["biased"]),
        helper.make_node("Cast", ["biased"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["y"]),
    ]
    adapted = adapt(graph(nodes, {"x": ["n", 2, 5, 5]}, {"y": ["n", 6, 3, 3]}, constants, 11), "q", {}, {})
    assert adapted.noise is not None and adapted.noise < 0.05
    feed = made_up(adapted.model, 2)
    floats = [helper.make_node("Conv", ["x", "w", "b"], ["y"])]
    plain = graph(floats, {"x": ["n", 2, 5, 5]}, {"y": ["n", 6, 3, 3]}, {"w": weight * np.float32(0.01), "b": bias}, 11)
    np.testing.assert_allclose(run(adapted.model, feed)["y"], run(plain, feed)["y"], rtol=1e-5, atol=1e-5)


def test_what_is_not_known_is_named() -> None:
    scale = {"s": np.float32(0.1), "z": np.uint8(3), "w": np.ones((4, 4), np.uint8)}
    linear = [helper.make_node("QLinearMatMul", ["x", "s2", "z", "w", "s", "z", "s", "z"], ["y"], name="product")]
    kinds = {"x": onnx.TensorProto.UINT8, "y": onnx.TensorProto.UINT8}
    with pytest.raises(EdgeEmoError, match=r"q: node product: QLinearMatMul has a scale that is no constant \(s2\)"):
        adapt(graph(linear, {"x": ["n", 4], "s2": ["n"]}, {"y": ["n", 4]}, scale, 20, kinds), "q", {}, {})
    integer = [helper.make_node("MatMulInteger", ["x", "w", "z", "z"], ["y"], name="product")]
    kinds["y"] = onnx.TensorProto.INT32
    with pytest.raises(EdgeEmoError, match="q: node product: MatMulInteger takes integers that are not quantized right before"):
        adapt(graph(integer, {"x": ["n", 4]}, {"y": ["n", 4]}, scale, 20, kinds), "q", {}, {})


@pytest.mark.parametrize(
    ("bits", "zeros"), [*((b, z) for b in (2, 4, 8) for z in ("none", "packed")), (2, "float"), (4, "float")]
)
def test_weights_of_few_bits_by_blocks_become_floats(bits: int, zeros: str, tmp_path: Path) -> None:
    """Seventy inputs: the last block of each output is not full, and zero points fill no whole number of bytes."""
    rng, k, n, block = np.random.default_rng(5), 70, 12, 32
    blocks = -(-k // block)
    constants = {
        "w": rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": rng.uniform(0.01, 0.02, (n, blocks)).astype(np.float32),
        "b": rng.standard_normal(n).astype(np.float32),
    }
    if zeros == "packed":
        constants["z"] = rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    elif zeros == "float":
        constants["z"] = rng.uniform(0, 2**bits - 1, (n, blocks)).astype(np.float32)
    inputs = ["x", "w", "s", "z" if "z" in constants else "", "", "b"]
    nodes = [helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block)]
    model = graph(nodes, {"x": ["n", 3, k]}, {"y": ["n", 3, n]}, constants)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    adapted = adapt(model, "m", {}, {})
    made, function = compiled(adapted.model, tmp_path)
    assert any(name.startswith("gemm_f32") for name in made.kernels)
    feed = made_up(adapted.model, 5)
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_weights_of_few_bits_in_an_order_of_their_own_are_refused() -> None:
    constants = {"w": np.zeros((4, 1, 16), np.uint8), "s": np.ones((4, 1), np.float32), "i": np.zeros(32, np.int32)}
    nodes = [helper.make_node("MatMulNBits", ["x", "w", "s", "", "i"], ["y"], domain="com.microsoft", K=32, N=4, block_size=32)]
    model = graph(nodes, {"x": ["n", 32]}, {"y": ["n", 4]}, constants)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(EdgeEmoError, match="node y: MatMulNBits has its weights in an order of their own"):
        adapt(model, "m", {}, {})


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("stored", [np.int8, np.uint8])
def test_recurrences_of_dequantized_weights(kind: str, stored: type, tmp_path: Path) -> None:
    """Weights alone in integers, a scale for all or, with a zero point, for each row."""
    rng, hidden, inputs = np.random.default_rng(6), 16, 12
    rows = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
    scale = rng.uniform(0.002, 0.006, rows).astype(np.float32) if stored is np.uint8 else np.float32(0.004)
    least, end = (0, 256) if stored is np.uint8 else (-128, 128)
    constants = {"sw": scale, "zw": np.full(scale.shape, 117 if stored is np.uint8 else 0, stored), "axis": np.array([1])}
    for name, width in (("w", inputs), ("r", hidden)):
        constants[name] = rng.integers(least, end, (1, rows, width)).astype(stored)
    nodes = [
        *(helper.make_node("DequantizeLinear", [name, "sw", "zw"], [f"{name}d"], axis=1) for name in "wr"),
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(kind, ["t", "wd", "rd"], ["o", ""], hidden_size=hidden),
        helper.make_node("Squeeze", ["o", "axis"], ["s"]),
        helper.make_node("Transpose", ["s"], ["y"], perm=[1, 0, 2]),
    ]
    model = graph(nodes, {"x": ["n", 5, inputs]}, {"y": ["n", 5, hidden]}, constants)
    adapted = adapt(model, "m", {}, {})
    made, function = compiled(adapted.model, tmp_path)
    assert any(name.startswith("gemm_f32") for name in made.kernels)
    feed = made_up(adapted.model, 4)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bits", "block"), [(3, 32), (0, 32), (4, 0), (4, 16)])
def test_weights_of_few_bits_whose_sizes_do_not_fit_are_refused(bits: int, block: int) -> None:
    constants = {"w": np.zeros((4, 1, 16), np.uint8), "s": np.ones((4, 1), np.float32)}
    options = {"K": 32, "N": 4, "bits": bits, "block_size": block}
    nodes = [helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **options)]
    model = graph(nodes, {"x": ["n", 32]}, {"y": ["n", 4]}, constants)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(EdgeEmoError, match="node y: MatMulNBits has weights whose sizes do not fit"):
        adapt(model, "m", {}, {})
