"""ONNX files that are almost right, through adapt, inspect and the plan of quantize."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.mutate import ODD_TEXT, damaged
from tests.fuzz.targets import file_of, target

OPERATORS = (
    "Relu",
    "Conv",
    "MatMul",
    "Concat",
    "Split",
    "Reshape",
    "LayerNormalization",
    "GRU",
    "Resize",
    "Softmax",
    "Gather",
    "Pad",
    "If",
)


@cache
def graphs() -> list[bytes]:
    rng = np.random.default_rng(0)

    make = helper.make_node

    def made(nodes: list[onnx.NodeProto], shape: list[int | str], constants: dict[str, np.ndarray], rank: int = 2) -> bytes:
        values = [numpy_helper.from_array(v, k) for k, v in constants.items()]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"n{i}" for i in range(rank)])
        graph = helper.make_graph(nodes, "g", [x], [y], values)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()

    w = rng.standard_normal((8, 8)).astype(np.float32)
    kernel = rng.standard_normal((4, 3, 3)).astype(np.float32)
    return [
        made([make("MatMul", ["x", "w"], ["h"]), make("Relu", ["h"], ["y"])], ["b", 8], {"w": w}),
        made([make("Conv", ["x", "k"], ["y"], strides=[2], pads=[1, 1])], ["b", 3, 16], {"k": kernel}, 3),
        made([make("LayerNormalization", ["x", "s", "s"], ["y"], axis=-1)], ["b", 8], {"s": w[0]}),
        made([make("Reshape", ["x", "r"], ["h"]), make("Gemm", ["h", "w"], ["y"])], [1, 2, 4],
             {"r": np.array([1, 8]), "w": w}),
        made([make("Split", ["x"], ["p", "q"], axis=1), make("Add", ["p", "q"], ["y"])], ["b", 8], {}),
        made([make("Concat", ["x", "w"], ["h"], axis=0), make("Softmax", ["h"], ["y"])], [8, 8], {"w": w}),
    ]  # fmt: skip


def spoilt(rng: random.Random) -> Path:
    data = rng.choice(graphs())
    if rng.random() < 0.3:
        return file_of(damaged(data, rng), ".onnx")
    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2))):
        node = rng.choice(model.graph.node)
        what = rng.randrange(7)
        if what == 0:
            node.op_type = rng.choice(OPERATORS)
        elif what == 1 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(("", "x", "y", "w", "nowhere"))
        elif what == 2 and node.attribute:
            attribute = rng.choice(node.attribute)
            attribute.i = rng.choice((-(2**63), -1, 0, 7, 2**62))
            attribute.ints[:] = [rng.choice((-1, 0, 1, 2**40)) for _ in attribute.ints]
        elif what == 3 and model.graph.initializer:
            tensor = rng.choice(model.graph.initializer)
            tensor.dims[:] = [rng.choice((0, 1, -1, 5, 2**40)) for _ in range(rng.randrange(4))]
        elif what == 4:
            node.name = rng.choice([t for t in ODD_TEXT if t != "\ud800"])
        elif what == 5:
            shape = model.graph.input[0].type.tensor_type.shape
            if shape.dim:
                rng.choice(shape.dim).dim_value = rng.choice((0, 1, 3, -5, 2**40))
        else:
            model.opset_import[0].version = rng.choice((0, 1, 6, 9, 11, 13, 21, 24, 99))
    return file_of(model.SerializeToString(), ".onnx")


@target(1_500)
def onnx_adapt(rng: random.Random) -> None:
    from edgeemo.adapt.adapt import adapt
    from edgeemo.onnxlib.load import load_onnx

    path = spoilt(rng)
    adapt(load_onnx(path), path.name, {}, {})


@target(2_000)
def onnx_inspect(rng: random.Random) -> None:
    from edgeemo.compile.inspect import inspect
    from edgeemo.targets.board import load_target

    inspect(spoilt(rng), load_target("host"))


@target(4_000)
def onnx_plan(rng: random.Random) -> None:
    from edgeemo.onnxlib.load import load_onnx
    from edgeemo.quantize.plan import plan
    from edgeemo.quantize.recipe import load_recipe

    plan(load_onnx(spoilt(rng)), "x", load_recipe("int8-mse"))
