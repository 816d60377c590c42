from __future__ import annotations

import numpy as np
from onnx import helper

from edgeemo.compile.passes import fuse_linear
from tests.compile.passes.relax_out import after
from tests.graphs import graph

WEIGHTS = {"w": np.ones((8, 12), np.float32), "b": np.ones(12, np.float32)}
SHAPES = {"x": ["batch", 3, 8]}


def test_a_product_takes_bias_and_activation_with_it() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    names, context, _ = after(graph(nodes, SHAPES, {"y": ["batch", 3, 12]}, WEIGHTS), fuse_linear)
    assert names == ["gemm_f32_rows3_k8_n12_bias_relu"]
    assert context.unfused == [] and context.table.products == ["f32"]
    spec = context.table.specs[names[0]]
    assert spec.macs == 3 * 8 * 12 and spec.int8_macs == 0


def test_a_value_that_others_use_ends_the_epilogue() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("Add", ["p", "r"], ["y"]),
    ]
    names, _, _ = after(graph(nodes, SHAPES, {"y": ["batch", 3, 12]}, WEIGHTS), fuse_linear)
    assert names == ["gemm_f32_rows3_k8_n12", "nn.relu", "add"]


def test_a_residual_is_added_by_the_kernel() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "r"], ["y"])]
    model = graph(nodes, {**SHAPES, "r": ["batch", 3, 12]}, {"y": ["batch", 3, 12]}, WEIGHTS)
    assert after(model, fuse_linear)[0] == ["gemm_f32_rows3_k8_n12_residual"]


def test_a_product_without_a_kernel_is_noted() -> None:
    """A convolution over three dimensions."""
    weights = {"w": np.ones((4, 2, 3, 3, 3), np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    model = graph(nodes, {"x": ["batch", 2, 5, 5, 5]}, {"y": ["batch", 4, 3, 3, 3]}, weights)
    names, context, _ = after(model, fuse_linear)
    assert names == ["nn.conv3d"] and len(context.unfused) == 1 and context.table.products == [None]
