"""Graphs as exporters write them, made ones of any batch: the numbers of one item at a time (`adapt` compares them itself)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edgeemo_runtime.errors import EdgeEmoError
from onnx import TensorProto, helper, numpy_helper

from edgeemo.adapt.adapt import adapt
from edgeemo.onnxlib.graph import dims, inputs_of
from tests.graphs import Dims, graph

N = helper.make_node
rng = np.random.default_rng(3)
W = rng.standard_normal((8, 8)).astype(np.float32)
CLS = rng.standard_normal((1, 1, 8)).astype(np.float32)


def adapted(nodes: list[onnx.NodeProto], inputs: dict[str, Dims], outputs: dict[str, Dims], **more: object) -> onnx.ModelProto:
    constants = {"w": W, **more.pop("constants", {})}  # type: ignore[dict-item]
    found = adapt(graph(nodes, inputs, outputs, constants, **more), "m", {}, {})  # type: ignore[arg-type]
    assert found.difference < 1e-5
    return found.model


def shapes(model: onnx.ModelProto) -> list[tuple[int | str, ...]]:
    return [dims(v) for v in (*inputs_of(model), *model.graph.output)]


def test_reshape_with_allowzero() -> None:
    nodes = [N("Shape", ["x"], ["s"], start=0, end=1), N("Concat", ["s", "k"], ["to"], axis=0),
             N("Reshape", ["x", "to"], ["y"], allowzero=1)]  # fmt: skip
    model = adapted(nodes, {"x": ["n", 4, 8]}, {"y": ["n", 4, 2, 4]}, constants={"k": np.array([4, 2, 4])}, opset=18)
    assert shapes(model) == [("batch", 4, 8), ("batch", 4, 2, 4)]


@pytest.mark.parametrize("target", [[1, 4, 8], [1, -1, 8], [4, 8], [8, 4], [1, 32], [32]])
def test_a_batch_of_one_in_a_reshape(target: list[int]) -> None:
    shape = [abs(d) if d > 0 else 4 for d in target]
    nodes = [N("Relu", ["x"], ["r"]), N("Reshape", ["r", "to"], ["y"])]
    adapted(nodes, {"x": [1, 32]}, {"y": shape}, constants={"to": np.array(target)})


def test_a_squeezed_batch_that_comes_back() -> None:
    nodes = [N("Squeeze", ["x", "zero"], ["m"]), N("MatMul", ["m", "w"], ["p"]), N("Unsqueeze", ["p", "zero"], ["y"])]
    model = adapted(nodes, {"x": [1, 4, 8]}, {"y": [1, 4, 8]}, constants={"zero": np.array([0])})
    assert shapes(model) == [("batch", 4, 8), ("batch", 4, 8)]


@pytest.mark.parametrize("static", [False, True])
def test_a_class_token_is_joined_to_every_item(static: bool) -> None:
    expanded = [
        N("Shape", ["x"], ["s"], start=0, end=1),
        N("Concat", ["s", "k"], ["to"], axis=0),
        N("Expand", ["cls", "to"], ["c"]),
    ]
    nodes = [*([] if static else expanded), N("Concat", ["cls" if static else "c", "x"], ["y"], axis=1)]
    adapted(
        nodes, {"x": [1 if static else "n", 4, 8]}, {"y": ["n", 5, 8]}, constants={"cls": CLS, "k": np.array([1, 8])}, opset=17
    )


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_states_made_by_constant_of_shape(kind: str, value: float) -> None:
    gates, hidden = {"GRU": 3, "LSTM": 4, "RNN": 1}[kind], 5
    constants = {"i": rng.standard_normal((1, gates * hidden, 8)).astype(np.float32), "one": np.array([1]),
                 "h": np.array([hidden]),
                 "r": rng.standard_normal((1, gates * hidden, hidden)).astype(np.float32), "at": np.array([1])}  # fmt: skip
    states = ["h0"] if kind != "LSTM" else ["h0", "h0"]
    filled = numpy_helper.from_array(np.array([value], np.float32))
    nodes = [
        N("Transpose", ["x"], ["xt"], perm=[1, 0, 2]), N("Shape", ["xt"], ["s"]), N("Gather", ["s", "at"], ["n"]),
        N("Concat", ["one", "n", "h"], ["hs"], axis=0), N("ConstantOfShape", ["hs"], ["h0"], value=filled),
        N(kind, ["xt", "i", "r", "", "", *states], ["all", "last"], hidden_size=hidden), N("Squeeze", ["last", "zero"], ["y"]),
    ]  # fmt: skip
    model = adapted(nodes, {"x": ["n", 3, 8]}, {"y": ["n", hidden]}, constants=constants | {"zero": np.array([0])})
    # A state of zero is none: the first step has no product of a constant, which nothing could quantize.
    products = [n for n in model.graph.node if n.op_type == "MatMul" and "recurrent" in n.name]
    assert len(products) == (2 if value == 0 else 3)


def test_outputs_that_are_inputs_views_parts_and_constants() -> None:
    nodes = [N("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), N("Identity", ["k"], ["c"]), N("Relu", ["x"], ["r"])]
    model = adapted(nodes, {"x": ["n", 8]}, {"x": ["n", 8], "a": ["n", 4], "b": ["n", 4], "c": [3], "r": ["n", 8]},
                    constants={"k": np.arange(3, dtype=np.float32)}, opset=18)  # fmt: skip
    assert [o.name for o in model.graph.output] == ["x", "a", "b", "c", "r"]
    assert dims(model.graph.output[3]) == ("batch", 3)


def test_initializers_among_inputs_and_missing_inputs_at_the_end() -> None:
    old = graph([N("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8], "w": [8, 8]}, {"y": ["n", 8]}, {"w": W}, opset=8)
    old.ir_version = 3
    assert [i.name for i in adapt(old, "m", {}, {}).model.graph.input] == ["x"]
    adapted([N("LayerNormalization", ["x", "g", ""], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, constants={"g": W[0]})
    with pytest.raises(EdgeEmoError, match=r"m: node join \(Concat\): its input 0 is missing"):
        adapted([N("Concat", ["", "x"], ["y"], name="join", axis=1)], {"x": ["n", 8]}, {"y": ["n", 8]})


def test_data_that_does_not_fit_its_shape_is_named() -> None:
    model = graph([N("Add", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, {"w": W[0]})
    model.graph.initializer[0].dims[0] = 9
    with pytest.raises(EdgeEmoError, match="m: initializer w: its data does not fit its shape"):
        adapt(model, "m", {}, {})


def test_a_local_function_is_inlined() -> None:
    model = graph([N("Twice", ["x"], ["y"], domain="mine")], {"x": ["n", 8]}, {"y": ["n", 8]})
    body = helper.make_function("mine", "Twice", ["a"], ["b"], [N("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)])
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert [n.op_type for n in adapt(model, "m", {}, {}).model.graph.node] == ["Add"]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 24])
def test_opsets_from_7_to_24(opset: int) -> None:
    adapted([N("MatMul", ["x", "w"], ["a"]), N("Sigmoid", ["a"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, opset=opset)


def test_what_takes_the_batch_apart_is_refused_by_name() -> None:
    cut = [N("Slice", ["x", "one", "end", "zero"], ["y"], name="cut")]
    with pytest.raises(EdgeEmoError, match=r"^m: "):
        adapted(
            cut, {"x": ["n", 8]}, {"y": ["m", 8]}, constants={"one": np.array([1]), "end": np.array([9]), "zero": np.array([0])}
        )
    with pytest.raises(EdgeEmoError, match="m: input x is STRING"):
        adapted(
            [N("Identity", ["x"], ["y"])],
            {"x": ["n", 2]},
            {"y": ["n", 2]},
            kinds={"x": TensorProto.STRING, "y": TensorProto.STRING},
        )
    with pytest.raises(EdgeEmoError, match=r"input h .*--shape|--shape \w+=1,batch,SIZE"):
        adapted([N("ReduceSum", ["x", "zero"], ["s"], keepdims=1), N("Sub", ["x", "s"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]},
                constants={"zero": np.array([0])})  # fmt: skip
