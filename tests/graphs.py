"""Graphs as others make them (odd batches, old opsets, recurrences, images), and their way through the chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from edgeemo_runtime import Function
from onnx import TensorProto, helper, numpy_helper

from edgeemo.adapt.adapt import adapt
from edgeemo.compile.compiler import Compiled, compile_onnx
from edgeemo.onnxlib.feeds import made_up
from edgeemo.quantize.calibration.sources import FeedSource
from edgeemo.quantize.plan import observe, plan, quantize_plan
from edgeemo.quantize.recipe import Recipe, load_recipe
from edgeemo.targets.board import load_target

Dims = Sequence[int | str]


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Dims],
    outputs: Mapping[str, Dims | None],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    def info(name: str, shape: Dims | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), shape)

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


def residual_block() -> onnx.ModelProto:
    """conv - relu - conv, what went in added, relu; joined with the same through a depthwise convolution; conv."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ar"], name="relu"),
        helper.make_node("Conv", ["ar", "w1"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "a"], ["s"], name="add"),
        helper.make_node("Relu", ["s"], ["sr"], name="relu2"),
        helper.make_node("Sigmoid", ["sr"], ["g"], name="gate"),
        helper.make_node("Mul", ["g", "scale"], ["gs"], name="per_channel"),
        helper.make_node("Conv", ["gs", "wd"], ["d"], name="depthwise", group=16, pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["gs", "d"], ["j"], name="join", axis=1),
        helper.make_node("Conv", ["j", "w2"], ["y"], name="last"),
    ]
    shapes = {"w0": (16, 4, 3, 3), "w1": (16, 16, 3, 3), "wd": (16, 1, 3, 3), "w2": (8, 32, 1, 1), "scale": (16, 1, 1)}
    constants = {name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    return adapt(graph(nodes, {"x": ["n", 4, 10, 12]}, {"y": ["n", 8, 10, 12]}, constants), "m", {}, {}).model


def grouped_block() -> onnx.ModelProto:
    """Groups of odd channels, strided; columns far apart; groups of one place."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", group=2, pads=[1, 1, 1, 1], strides=[2, 1]),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w1"], ["b"], name="second", dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("Conv", ["b", "w2"], ["y"], name="last", group=2),
    ]
    shapes = {"w0": (32, 5, 3, 3), "w1": (32, 32, 3, 3), "w2": (12, 16, 1, 1)}
    constants = {name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}
    return adapt(graph(nodes, {"x": ["n", 10, 11, 12]}, {"y": ["n", 12, 6, 12]}, constants), "m", {}, {}).model


WHOLE_INT8 = load_recipe("int8-kl")  # all of int8 for every layer, so that no Clip stands between


def quantized(model: onnx.ModelProto, folder: Path, recipe: Recipe = WHOLE_INT8, whole: range = range(10)) -> onnx.ModelProto:
    """Quantized on four feeds of made-up inputs, which are left in ``folder``."""
    for i in range(4):
        np.savez(folder / f"{i}.npz", **made_up(model, 4, i, whole))
    planned = plan(model, "m", recipe)
    return quantize_plan(planned, observe(planned, FeedSource.of(folder)))[0]


def compiled(model: onnx.ModelProto, folder: Path) -> tuple[Compiled, Function]:
    """For this machine, by way of ``folder``'s m.onnx."""
    onnx.save(model, folder / "m.onnx")
    made = compile_onnx(folder / "m.onnx", load_target("host"))
    (folder / "host.edgeemo").write_bytes(made.archive)
    return made, Function(folder / "host.edgeemo")
