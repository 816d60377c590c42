from __future__ import annotations

import numpy as np
from onnx import helper

from edgeemo.compile.passes import fuse_batched_matmul
from tests.compile.passes.relax_out import after
from tests.graphs import graph


def test_a_product_of_two_activations_takes_its_factor_with_it() -> None:
    nodes = [helper.make_node("MatMul", ["x", "y"], ["p"]), helper.make_node("Mul", ["p", "half"], ["z"])]
    shapes = {"x": ["batch", 2, 3, 8], "y": ["batch", 2, 8, 4]}
    model = graph(nodes, shapes, {"z": ["batch", 2, 3, 4]}, {"half": np.float32(0.5)})
    names, context, _ = after(model, fuse_batched_matmul)
    assert names == ["product_f32_2x3_k8_n4"]
    assert context.table.specs[names[0]].scale == 0.5


def test_constant_weights_are_left_to_the_linear_kernels() -> None:
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["batch", 3, 8]}, {"y": ["batch", 3, 4]},
        {"w": np.ones((8, 4), np.float32)},
    )  # fmt: skip
    assert after(model, fuse_batched_matmul)[0] == ["matmul"]


def test_constant_matrices_that_are_not_one_for_one_stay_stock() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = graph(nodes, {"x": ["batch", 1, 3, 8]}, {"y": ["batch", 2, 3, 4]}, {"w": np.ones((2, 8, 4), np.float32)})
    assert after(model, fuse_batched_matmul)[0] == ["matmul"]
