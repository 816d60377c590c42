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
