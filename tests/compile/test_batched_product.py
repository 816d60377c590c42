"""Products matrix by matrix, of two activations or of one and constant matrices, with any number of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgeemo.adapt.adapt import run
from edgeemo.compile.kernels import batched_matmul
from tests.compile.test_kernels import HOST, call
from tests.graphs import compiled, graph

CASES = [(1, 1, 3, 4, 1.0), (2, 5, 7, 20, 0.25), (3, 8, 16, 36, -2.0), (6, 144, 64, 144, 0.125)]
CASES += [(2, 5, 7, 3, 1.0), (4, 7, 8, 39, 0.5), (2, 4, 12, 50, 1.0), (1, 3, 9, 1, 2.0)]  # columns that are no fours


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_the_kernel(case: tuple[int, int, int, int, float], shared: bool) -> None:
    matrices, rows, k, n, scale = case
    rng = np.random.default_rng(12)
    a = rng.standard_normal((2, matrices, rows, k)).astype(np.float32)
    w = rng.standard_normal((1 if shared else 2, matrices, k, n)).astype(np.float32)
    out = np.full((2, matrices, rows, n), np.nan, dtype=np.float32)
    call(batched_matmul.build(batched_matmul.BatchedProduct(matrices, rows, k, n, scale, shared), HOST), 2, [a, w, out])
    np.testing.assert_allclose(out, scale * (a.astype(np.float64) @ w), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("before", [(4,), (1, 4), (1, 1)])
@pytest.mark.parametrize("n", [16, 39])
def test_constant_matrices_are_no_stock_product(before: tuple[int, ...], n: int, tmp_path: Path) -> None:
    """As attention by relative positions has them: a matrix for each head, or one for all."""
    rng = np.random.default_rng(1)
    constants = {"w": rng.standard_normal((*before, 8, n)).astype(np.float32), "c": np.float32(0.3)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Mul", ["p", "c"], ["y"])]
    model = graph(nodes, {"x": ["N", 4, 7, 8]}, {"y": ["N", 4, 7, n]}, constants)
    made, function = compiled(model, tmp_path)
    assert made.stock_products == [] and any(name.endswith("_shared") for name in made.kernels), made.kernels
    feed = {"x": rng.standard_normal((3, 4, 7, 8)).astype(np.float32)}
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-5)
