"""Integer weights as other tools store them: uint8, four bits, zero points, scales by blocks or by inputs, weights alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeemo.adapt.adapt import run
from edgeemo.compile.stored_weights import with_plain_weights
from tests.graphs import compiled, graph

K, N, BLOCK = 48, 20, 16
RNG = np.random.default_rng(0)
SCALES = RNG.uniform(0.005, 0.02, N).astype(np.float32)
ONE, THREE = np.float32(0.01), np.int8(3)
KINDS = {"int8": (TensorProto.INT8, -128, 128), "uint8": (TensorProto.UINT8, 0, 256)}
KINDS |= {"float8": (TensorProto.FLOAT8E4M3FN, -8, 8), "int4": (TensorProto.INT4, -8, 8), "uint4": (TensorProto.UINT4, 0, 16)}


def product(
    kind: str,
    scale: np.ndarray | np.generic,
    zero: np.ndarray | int | None = None,
    activations: np.generic | None = THREE,
    most: int = 256,
    **attributes: int,
) -> onnx.ModelProto:
    """A MatMul with weights of a kind; ``zero``: their zero points. ``activations``: theirs, None where they are float."""
    stored, least, end = KINDS[kind]
    values = np.random.default_rng(1).integers(least, min(end, most), (K, N))
    nodes, constants = [], {"sx": np.float32(0.02), "sw": scale}
    if activations is not None:
        constants["z"] = activations
        nodes = [helper.make_node("QuantizeLinear", ["x", "sx", "z"], ["xq"])]
        nodes.append(helper.make_node("DequantizeLinear", ["xq", "sx", "z"], ["xd"]))
    inputs = ["w", "sw"] + ["zw"] * (zero is not None)
    nodes.append(helper.make_node("DequantizeLinear", inputs, ["wd"], **({"axis": 1} | attributes)))
    nodes.append(helper.make_node("MatMul", ["x" if activations is None else "xd", "wd"], ["y"], name="product"))
    model = graph(nodes, {"x": ["N", K]}, {"y": ["N", N]}, constants, opset=21)
    model.ir_version = 10
    model.graph.initializer.append(helper.make_tensor("w", stored, (K, N), values.ravel().tolist()))
    if zero is not None:
        points = np.broadcast_to(zero, scale.shape)
        model.graph.initializer.append(helper.make_tensor("zw", stored, points.shape, points.ravel().tolist()))
    return model


def blocks() -> np.ndarray:
    return RNG.uniform(0.01, 0.02, (K // BLOCK, N)).astype(np.float32)


INT8 = {
    "uint8, 128 for each output": product("uint8", SCALES, 128),
    "uint8, 128 for all": product("uint8", ONE, 128),
    "uint8, what is left fits": product("uint8", SCALES, 100, most=228),
    "int8, no zero point": product("int8", SCALES),
    "int4": product("int4", SCALES),
    "uint4, 8": product("uint4", SCALES, 8),
    "uint8 activations": product("int8", SCALES, 0, np.uint8(120)),
}
FLOAT = {
    "uint8, what is left does not fit": product("uint8", SCALES, 100),
    "int8, a zero point for all": product("int8", ONE, 5),
    "int8, zero points": product("int8", SCALES, RNG.integers(-9, 9, N)),
    "int4 by blocks": product("int4", blocks(), axis=0, block_size=BLOCK),
    "uint4 by blocks, zero points": product("uint4", blocks(), 7, axis=0, block_size=BLOCK),
    "int8 by blocks": product("int8", blocks(), axis=0, block_size=BLOCK),
    "scales along the reduction": product("int8", RNG.uniform(0.005, 0.02, K).astype(np.float32), axis=0),
    "weights alone": product("int8", SCALES, 0, None),
    "four bits alone": product("uint4", SCALES, 8, None),
    "float8": product("float8", SCALES),
    "int16 activations": product("int8", SCALES, 0, np.int16(0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*INT8, *FLOAT])
def test_products_go_to_a_kernel_and_are_right(name: str, tmp_path: Path) -> None:
    model = (INT8 | FLOAT)[name]
    made, function = compiled(model, tmp_path)
    assert any(kernel.startswith("gemm_s8" if name in INT8 else "gemm_f32") for kernel in made.kernels), made.kernels
    feed = {"x": np.random.default_rng(2).standard_normal((3, K)).astype(np.float32)}
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("by_outputs", [True, False])
def test_weights_behind_a_transpose(by_outputs: bool, tmp_path: Path) -> None:
    """Square, so that scales of the wrong axis would fit."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw"], ["wd"], axis=0 if by_outputs else 1),
        helper.make_node("Transpose", ["wd"], ["wt"]),
        helper.make_node("MatMul", ["xd", "wt"], ["y"]),
    ]
    constants = {"sx": np.float32(0.02), "z": np.int8(0), "w": rng.integers(-127, 128, (K, K)).astype(np.int8)}
    model = graph(nodes, {"x": ["N", K]}, {"y": ["N", K]}, constants | {"sw": rng.uniform(0.005, 0.02, K).astype(np.float32)})
    made, function = compiled(model, tmp_path)
    assert any(kernel.startswith("gemm_s8" if by_outputs else "gemm_f32") for kernel in made.kernels), made.kernels
    feed = {"x": rng.standard_normal((3, K)).astype(np.float32)}
    got, wanted = function.run(feed)["y"], run(model, feed)["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_a_convolution_of_weights_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    weight = rng.integers(-128, 128, (8, 16, 3, 3)).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "sw"], ["wd"], axis=0),
        helper.make_node("Conv", ["x", "wd"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {"w": weight, "sw": rng.uniform(0.01, 0.02, 8).astype(np.float32)}
    model = graph(nodes, {"x": ["N", 16, 9, 9]}, {"y": ["N", 8, 9, 9]}, constants)
    made, function = compiled(model, tmp_path)
    assert made.stock_products == [] and any(kernel.startswith("gemm_f32") for kernel in made.kernels)
    feed = {"x": rng.standard_normal((2, 16, 9, 9)).astype(np.float32)}
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-3)


def test_plain_weights_are_left_alone() -> None:
    model = product("int8", SCALES, 0)
    assert with_plain_weights(model) is model
    changed = with_plain_weights(product("uint8", SCALES, 128))
    assert not any(i.data_type == TensorProto.UINT8 for i in changed.graph.initializer)
    (weights,) = (numpy_helper.to_array(i) for i in changed.graph.initializer if i.name == "wd_int8")
    assert weights.dtype == np.int8 and weights.min() == -128 and weights.max() == 127
