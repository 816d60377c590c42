"""Graphs as others make them: static or oddly placed batches, old opsets, recurrences, branches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str]


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Dims],
    outputs: dict[str, Dims],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    def info(name: str, shape: Dims) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), list(shape))

    held = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    made = helper.make_graph(nodes, "g", [info(*i) for i in inputs.items()], [info(*o) for o in outputs.items()], held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def recurrence(
    kind: str, direction: str, steps: int = 5, hidden: int = 12, states: bool = False, **options: object
) -> onnx.ModelProto:
    """x (1, steps, 8) -> the whole sequence (1, steps, directions * hidden) and the last state; the batch is ONNX's second."""
    rng = np.random.default_rng(0)
    gates, directions = (4 if kind == "LSTM" else 3), (2 if direction == "bidirectional" else 1)
    weights = {
        "w": rng.standard_normal((directions, gates * hidden, 8)).astype(np.float32) * 0.3,
        "r": rng.standard_normal((directions, gates * hidden, hidden)).astype(np.float32) * 0.3,
        "b": rng.standard_normal((directions, 2 * gates * hidden)).astype(np.float32) * 0.3,
        "shape": np.array([-1, steps, directions * hidden]),
    }
    inputs: dict[str, Dims] = {"x": [1, steps, 8]}
    names = ["xt", "w", "r", "b"]
    if states:
        inputs["h0"] = [directions, 1, hidden]
        names += ["", "h0"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node(kind, names, ["y", "h"], hidden_size=hidden, direction=direction, **options),
        helper.make_node("Transpose", ["y"], ["yt"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["yt", "shape"], ["out"]),
    ]
    outputs: dict[str, Dims] = {"out": [1, steps, directions * hidden], "h": [directions, 1, hidden]}
    return graph(nodes, inputs, outputs, weights)
