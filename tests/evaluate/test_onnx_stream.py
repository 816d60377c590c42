from __future__ import annotations

import numpy as np
from onnx import helper

from edgeemo.onnxlib.session import open_session
from tests.graphs import graph


def test_int8_products_do_not_saturate_on_a_processor_without_vnni() -> None:
    """There ONNX Runtime's own kernels add two products of bytes in an int16."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(100, 128, (4, 64)), rng.integers(100, 128, (64, 8))
    scale, zero = np.float32(1), np.int8(0)
    model = graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wd"]),
            helper.make_node("MatMul", ["xd", "wd"], ["product"]),
            helper.make_node("QuantizeLinear", ["product", "coarse", "zero"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "coarse", "zero"], ["y"]),
        ],
        {"x": [4, 64]},
        {"y": [4, 8]},
        {"w": w.astype(np.int8), "scale": scale, "zero": zero, "coarse": np.float32(2**13)},
    )
    (y,) = open_session(model).run(None, {"x": x.astype(np.float32)})
    np.testing.assert_array_equal(y, np.rint((x @ w) / 2**13) * 2**13)
