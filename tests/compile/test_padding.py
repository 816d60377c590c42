"""INT8 products whose inner length is no multiple of what the kernels load: filled up with zeros, not left to stock loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgeemo.adapt.adapt import adapt, run
from edgeemo.onnxlib.feeds import made_up
from tests.graphs import compiled, graph, quantized

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
CASES = {
    "matmul": ([helper.make_node("MatMul", ["x", "w"], ["y"])], [3, 39], [3, 24], (39, 24)),
    "conv": ([helper.make_node("Conv", ["x", "w"], ["y"])], [13, 10], [8, 8], (8, 13, 3)),
    "padded conv": ([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1])], [20, 10], [8, 10], (8, 20, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_odd_lengths_go_through_int8_kernels_and_are_exact(case: str, tmp_path: Path) -> None:
    nodes, x, y, weight = CASES[case]
    given = graph(nodes, {"x": ["n", *x]}, {"y": ["n", *y]}, {"w": RNG.standard_normal(weight).astype(np.float32)})
    model = quantized(adapt(given, "m", {}, {}).model, tmp_path)
    made, function = compiled(model, tmp_path)
    assert made.stock_products == []
    assert any(name.startswith("gemm_s8") for name in made.kernels)
    feed = made_up(model, 5, 9)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-5, atol=1e-5)
