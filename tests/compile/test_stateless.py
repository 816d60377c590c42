"""An ordinary ONNX model, without a stream contract, compiles; what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm_ffi
from edgeemo_runtime import Engine
from edgeemo_runtime.artifact import load_artifact
from edgeemo_runtime.errors import EdgeEmoError
from edgeemo_runtime.memory import aligned_zeros
from onnx import TensorProto, helper, numpy_helper

from edgeemo.compile.compiler import compile_onnx
from edgeemo.targets.board import load_target

pytestmark = pytest.mark.slow


def small_model(path: Path, batch: str | int, outputs: int) -> np.ndarray:
    """x (batch, 8) -> tanh(x w) and, as a second output, its double; returns w."""
    w = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["y0"]),
        helper.make_node("Add", ["y0", "y0"], ["y1"]),
    ][: outputs + 1]
    info = helper.make_tensor_value_info
    results = [info(f"y{i}", TensorProto.FLOAT, [batch, 5]) for i in range(outputs)]
    graph = helper.make_graph(
        nodes, "small", [info("x", TensorProto.FLOAT, [batch, 8])], results, [numpy_helper.from_array(w, "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return w


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_model_without_contract_compiles_and_is_right(tmp_path: Path, outputs: int) -> None:
    w = small_model(tmp_path / "m.onnx", "batch", outputs)
    path = tmp_path / "m.edgeemo"
    path.write_bytes(compile_onnx(tmp_path / "m.onnx", load_target("host")).archive)
    artifact = load_artifact(path)
    step = artifact.manifest["step"]
    x, slots = aligned_zeros((3, 8), np.float32), aligned_zeros((3,), np.int32)
    x[:] = np.random.default_rng(1).standard_normal((3, 8))
    states = aligned_zeros((1, step["state_words"]), np.float32)
    arena = aligned_zeros((3 * max(64, step["arena_bytes_per_stream"]),), np.uint8)
    results = [aligned_zeros((3, 5), np.float32) for _ in range(outputs)]
    artifact.load_step()(*[tvm_ffi.from_dlpack(a) for a in (slots, x, states, artifact.weights, arena, *results)])
    for i, result in enumerate(results):
        np.testing.assert_allclose(result, (i + 1) * np.tanh(x @ w), rtol=1e-5, atol=1e-6)
    with pytest.raises(EdgeEmoError, match="no stream contract"):
        Engine(artifact)


def test_a_fixed_batch_is_named(tmp_path: Path) -> None:
    small_model(tmp_path / "m.onnx", 1, 1)
    with pytest.raises(EdgeEmoError, match=r"m\.onnx: x: the first dimension .*symbolic"):
        compile_onnx(tmp_path / "m.onnx", load_target("host"))
