"""INT8 files that ONNX Runtime's own quantizer made go through our INT8 kernels, zero points and int32 biases and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgeemo.adapt.adapt import run
from tests.graphs import compiled, graph

pytestmark = pytest.mark.slow


class Inputs(CalibrationDataReader):
    """Not around zero, so that zero points are not zero."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"x": rng.standard_normal((8, 39, 10)).astype(np.float32) + 0.5} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("activations", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_static_qdq_of_onnx_runtime(activations: QuantType, per_channel: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shapes = {"w1": (32, 39, 3), "b1": (32,), "w2": (256, 24), "b2": (24,), "w3": (24, 7)}
    constants = {name: (rng.standard_normal(shape) * 0.2).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Reshape", ["r", "flat"], ["f"], name="reshape"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["g"], name="gemm"),
        helper.make_node("Sigmoid", ["g"], ["h"], name="sigmoid"),
        helper.make_node("MatMul", ["h", "w3"], ["y"], name="out"),
    ]
    model = graph(nodes, {"x": ["batch", 39, 10]}, {"y": ["batch", 7]}, constants | {"flat": np.array([-1, 256])}, opset=20)
    onnx.save(model, tmp_path / "float.onnx")
    options = {"quant_format": QuantFormat.QDQ, "activation_type": activations, "weight_type": QuantType.QInt8}
    quantize_static(tmp_path / "float.onnx", tmp_path / "q.onnx", Inputs(), per_channel=per_channel, **options)
    quantized = onnx.load(tmp_path / "q.onnx")
    made, function = compiled(quantized, tmp_path)
    assert sum(name.startswith("gemm_s8") for name in made.kernels) == 3
    assert made.stock_products == []
    feed = {"x": rng.standard_normal((5, 39, 10)).astype(np.float32) + 0.5}
    got, wanted = function.run(feed)["y"], run(quantized, feed)["y"]
    # Both are on the grid of the last scale: a value that falls between two of its points may be a step off.
    step = np.diff(np.unique(wanted)).min()
    assert np.abs(got - wanted).max() <= 1.01 * step
    assert (np.abs(got - wanted) > step / 2).mean() < 0.1


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-20), np.uint8(128), np.uint8(142)])
def test_a_zero_point_behind_a_layer_norm(zero: np.integer, tmp_path: Path) -> None:
    """The kernel's own epilogue quantizes without one."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"]),
        helper.make_node("QuantizeLinear", ["n", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    constants = {"gamma": np.ones(16, np.float32), "beta": np.full(16, 0.5, np.float32), "s": np.float32(0.03), "z": zero,
                 "w": rng.standard_normal((16, 8)).astype(np.float32)}  # fmt: skip
    model = graph(nodes, {"x": ["batch", 4, 16]}, {"y": ["batch", 4, 8]}, constants, opset=20)
    _, function = compiled(model, tmp_path)
    feed = {"x": rng.standard_normal((3, 4, 16)).astype(np.float32)}
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], atol=0.2)  # a value or two a level off


@pytest.mark.parametrize("zeros", [(0, 0), (9, 0), (0, -7)])
def test_zero_points_around_attention(zeros: tuple[int, int], tmp_path: Path) -> None:
    """Those of queries, keys, values and results: without rings attention is two products, which take none either."""
    rng = np.random.default_rng(3)
    heads, width, tokens = 2, 8, 8
    row = heads * width
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Split", ["p"], ["q", "k", "v"], axis=2, num_outputs=3),
    ]
    for name in "qkv":
        nodes += [
            helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}i"]),
            helper.make_node("DequantizeLinear", [f"{name}i", "s", "z"], [f"{name}d"]),
            helper.make_node("Reshape", [f"{name}d", "apart"], [f"{name}r"]),
            helper.make_node("Transpose", [f"{name}r"], [f"{name}t"], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("MatMul", ["qt", "kt"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "vt"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "joined"], ["o"]),
        helper.make_node("QuantizeLinear", ["o", "s", "zo"], ["oi"]),
        helper.make_node("DequantizeLinear", ["oi", "s", "zo"], ["y"]),
    ]
    constants = {"w": rng.standard_normal((16, 3 * row)).astype(np.float32) * 0.3, "s": np.float32(0.03),
                 "z": np.int8(zeros[0]), "zo": np.int8(zeros[1]), "scale": np.float32(width**-0.5),
                 "apart": np.array([0, tokens, heads, width]), "joined": np.array([0, tokens, row])}  # fmt: skip
    model = graph(nodes, {"x": ["batch", tokens, 16]}, {"y": ["batch", tokens, row]}, constants, opset=20)
    _, function = compiled(model, tmp_path)
    feed = {"x": rng.standard_normal((3, tokens, 16)).astype(np.float32)}
    assert np.abs(function.run(feed)["y"] - run(model, feed)["y"]).max() <= 0.0301


@pytest.mark.parametrize("kind", ["product", "convolution", "depthwise"])
def test_weights_of_minus_128(kind: str, tmp_path: Path) -> None:
    """As torch's quantization-aware training and files with uint8 weights have them."""
    rng = np.random.default_rng(3)
    shape = {"product": (48, 20), "convolution": (12, 16, 3), "depthwise": (16, 1, 3)}[kind]
    weight = rng.integers(-128, 128, shape).astype(np.int8)
    weight.flat[::3] = -128
    channels, axis = (shape[1], 1) if kind == "product" else (shape[0], 0)
    constants = {"sx": np.float32(0.02), "z": np.int8(3), "w": weight, "zw": np.zeros(channels, np.int8)}
    constants["sw"] = rng.uniform(0.005, 0.02, channels).astype(np.float32)
    last = (
        helper.make_node("MatMul", ["xd", "wd"], ["y"], name="product")
        if kind == "product"
        else helper.make_node("Conv", ["xd", "wd"], ["y"], name="conv", group=16 if kind == "depthwise" else 1)
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=axis),
        last,
    ]
    size = [48] if kind == "product" else [16, 9]
    model = graph(nodes, {"x": ["batch", *size]}, {"y": ["batch", *([20] if kind == "product" else [channels, 7])]}, constants)
    made, function = compiled(model, tmp_path)
    assert made.stock_products == []
    feed = {"x": rng.standard_normal((3, *size)).astype(np.float32)}
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
