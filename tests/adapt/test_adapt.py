from __future__ import annotations

import numpy as np
import onnx
import pytest
from edgeemo_runtime.errors import EdgeEmoError
from onnx import TensorProto, helper

from edgeemo.adapt.adapt import adapt, run
from edgeemo.adapt.fold import OPSET
from edgeemo.onnxlib.feeds import made_up
from edgeemo.onnxlib.graph import dims, inputs_of
from tests.graphs import graph, recurrence

W = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    return {v.name: dims(v) for v in (*inputs_of(model), *model.graph.output)}


def test_a_batch_of_one_becomes_any_batch_and_the_opset_ours() -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 8]}, {"y": [1, 6]}, {"w": W}, opset=11)
    found = adapt(model, "m", {}, {})
    assert shapes(found.model) == {"x": ("batch", 8), "y": ("batch", 6)}
    assert found.model.opset_import[0].version == OPSET
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_allclose(run(found.model, {"x": x})["y"], x @ W, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 20, 22, 24])
def test_opsets_from_17_to_24(opset: int) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["y"], axis=-1)]
    found = adapt(graph(nodes, {"x": [1, 8]}, {"y": [1, 6]}, {"w": W}, opset), "m", {}, {})
    assert found.model.opset_import[0].version == max(opset, OPSET)


def test_a_batch_that_is_not_first_is_moved_there() -> None:
    model = graph([helper.make_node("Neg", ["x"], ["y"])], {"x": [2, "n", 4]}, {"y": [2, "n", 4]})
    found = adapt(model, "m", {"x": (2, "batch", 4)}, {})
    assert shapes(found.model) == {"x": ("batch", 2, 4), "y": ("batch", 2, 4)}


def test_shapes_computed_from_shapes_fold_away() -> None:
    """Torch's export of x.view(x.size(0), -1): Shape, Gather, Concat, Reshape."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]), "w": W}
    found = adapt(graph(nodes, {"x": ["n", 2, 4]}, {"y": ["n", 6]}, constants), "m", {}, {})
    assert {n.op_type for n in found.model.graph.node} == {"Reshape", "MatMul"}


def test_a_scalar_input_is_set_and_its_branch_taken() -> None:
    def branch(name: str, factor: float) -> onnx.GraphProto:
        node = helper.make_node("Mul", ["x", f"{name}_c"], [name])
        constant = helper.make_tensor(f"{name}_c", TensorProto.FLOAT, [], [factor])
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)], [constant])

    nodes = [
        helper.make_node("Equal", ["rate", "k"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=branch("a", 2.0), else_branch=branch("b", 5.0)),
    ]
    model = graph(nodes, {"x": ["n", 4], "rate": []}, {"y": ["n", 4]}, {"k": np.array(8000)}, kinds={"rate": TensorProto.INT64})
    with pytest.raises(EdgeEmoError, match=r"input rate is a scalar.*--set rate=VALUE"):
        adapt(model, "m", {}, {})
    for rate, factor in ((8000, 2), (16000, 5)):
        found = adapt(model, "m", {}, {"rate": rate}).model
        x = np.ones((3, 4), dtype=np.float32)
        np.testing.assert_array_equal(run(found, {"x": x})["y"], factor * x)


@pytest.mark.parametrize("kind, options", [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1})])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("states", [False, True])
def test_recurrences_are_unrolled_and_the_same(kind: str, options: dict[str, object], direction: str, states: bool) -> None:
    given = {"h0": (2 if direction == "bidirectional" else 1, "batch", 12)} if states else {}
    found = adapt(recurrence(kind, direction, states=states, **options), "m", given, {})
    assert not {"LSTM", "GRU"} & {n.op_type for n in found.model.graph.node}
    assert found.difference < 1e-5
    assert len(made_up(found.model, 2)) == 1 + states


def test_mistakes_name_the_input_or_node() -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", "width"]}, {"y": ["n", 6]}, {"w": W})

    def refused(model: onnx.ModelProto, words: str, **given: tuple[int | str, ...]) -> None:
        with pytest.raises(EdgeEmoError, match=words):
            adapt(model, "m.onnx", given, {})

    refused(model, r"m\.onnx: input x: dimension 'width' has no size; --shape x=batch,SIZE")
    refused(model, r"has no input z; its inputs are x", z=("batch", 8))
    refused(model, r"ONNX Runtime does not run it with 2 streams", x=("batch", 9))
    mixed = graph([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": ["n", 4]}, {"y": []})
    refused(mixed, "no one batch|is not one of its")
    summed = graph(
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])],
        {"x": ["n", 4]}, {"y": ["n", 4]},
    )  # fmt: skip
    refused(summed, "its streams are not independent")
    foreign = graph([helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", name="odd")],
                    {"x": ["n", 8]}, {"y": ["n", 6]}, {"w": W})  # fmt: skip
    refused(foreign, "node odd: com.microsoft:FusedMatMul is no operator of ONNX")
    long = recurrence("LSTM", "forward", steps=300)
    refused(long, "LSTM over 300 steps; at most 256")


def test_a_node_that_crashes_native_code_is_named() -> None:
    """Split into one part with two outputs aborts onnx."""
    nodes = [
        helper.make_node("Abs", ["x"], ["t"], name="before"),
        helper.make_node("Split", ["t"], ["a", "b"], axis=1, num_outputs=1, name="odd"),
        helper.make_node("Add", ["a", "b"], ["y"], name="after"),
    ]
    model = graph(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, opset=18)
    with pytest.raises(EdgeEmoError, match=r"^m\.onnx: adapting: node odd \(Split\): .*export it in another way$"):
        adapt(model, "m.onnx", {}, {})


@pytest.mark.parametrize("nodes, words", [
    ([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], "output y"),
    ([helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])],
     "output y"),
    ([helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft", name="odd")], "node odd"),
    ([helper.make_node("MatMul", ["x", "x"], ["y"], name="odd")], r"Node \(odd\)"),
])  # fmt: skip
def test_a_refusal_names_what_is_in_the_way_and_the_way_out(nodes: list[onnx.NodeProto], words: str) -> None:
    with pytest.raises(EdgeEmoError, match=rf"^m\.onnx: .*{words}.*(--shape|export|leave)[^\n]*$"):
        adapt(graph(nodes, {"x": ["n", 4]}, {"y": []}), "m.onnx", {}, {})
