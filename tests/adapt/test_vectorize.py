"""Files for one item get a batch: every rule, with the batch's 1 in front, behind, or nowhere (`adapt` compares the numbers)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper

from edgeemo.adapt.adapt import adapt
from edgeemo.adapt.vectorize import items_are_apart
from edgeemo.cli.main import main
from edgeemo.onnxlib.graph import BATCH, Shape, dims, inputs_of
from tests.graphs import graph

N = helper.make_node
rng = np.random.default_rng(5)
IDX = np.array([2, 0, 1])


def _random(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def whole(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, np.ndarray], **more: dict[str, Shape]) -> Shape:
    """One item has all dimensions of x; the shape of the output y then."""
    given: dict[str, Shape] = {"x": tuple(shape), **more.get("others", {})}
    model = graph(nodes, {n: list(s) for n, s in given.items()}, {"y": None}, constants, opset=20)
    found = adapt(model, "m", given, {})
    assert found.difference < 1e-5
    assert items_are_apart(found.model)
    assert [dims(i) for i in inputs_of(found.model)] == [(BATCH, *(d for d in s if d != BATCH)) for s in given.values()]
    return dims(found.model.graph.output[0])


CASES = {
    "operands of several ranks": ([N("ReduceMax", ["x", "one"], ["m"], keepdims=0), N("Mul", ["x", "m"], ["a"]),
                                   N("Add", ["w", "a"], ["y"])], [4, 5, 6], {"w": _random(5, 6), "one": np.array([0, 1])}),
    "a constant of more dimensions": ([N("Add", ["x", "w"], ["y"])], [5, 6], {"w": _random(3, 1, 6)}),
    "a column of scales": ([N("QuantizeLinear", ["x", "s", "z"], ["q"], axis=0),
                            N("DequantizeLinear", ["q", "s", "z"], ["y"], axis=0)], [3, 4],
                           {"s": np.array([0.1, 0.2, 0.3], np.float32), "z": np.zeros(3, np.int8)}),
    "one scale": ([N("QuantizeLinear", ["x", "s"], ["q"]), N("DequantizeLinear", ["q", "s"], ["y"])], [3, 4],
                  {"s": np.float32(0.1)}),
    "softmax over rows": ([N("Softmax", ["x"], ["y"], axis=0)], [4, 5], {}),
    "layer norm": ([N("LayerNormalization", ["x", "g"], ["y"])], [4, 8], {"g": _random(8)}),
    "the place of the largest": ([N("ArgMax", ["x"], ["p"], axis=0), N("Cast", ["p"], ["y"], to=1)], [4, 5], {}),
    "joined rows, one constant": ([N("Concat", ["w", "x", "x"], ["y"], axis=0)], [4, 5], {"w": _random(2, 5)}),
    "split rows": ([N("Split", ["x"], ["a", "b"], axis=0, num_outputs=2), N("Sub", ["a", "b"], ["y"])], [4, 5], {}),
    "rows by number": ([N("Gather", ["x", "i"], ["y"], axis=0)], [4, 5], {"i": IDX}),
    "a table's rows": ([N("Cast", ["x"], ["c"], to=7), N("Clip", ["c", "z", "t"], ["p"]), N("Gather", ["w", "p"], ["y"])], [4],
                       {"w": _random(3, 5), "z": np.array(0), "t": np.array(2)}),
    "elements by number": ([N("GatherElements", ["x", "i"], ["y"], axis=0)], [4, 5], {"i": np.array([[3, 1, 0, 2, 1]])}),
    "sums": ([N("ReduceSum", ["x", "zero"], ["y"], keepdims=1)], [4, 5], {"zero": np.array([0])}),
    "the sum of all": ([N("ReduceSum", ["x"], ["y"], keepdims=0)], [4, 5], {}),
    "slices": ([N("Slice", ["x", "a", "b", "zero"], ["y"])], [4, 5],
               {"a": np.array([1]), "b": np.array([3]), "zero": np.array([0])}),
    "padded rows": ([N("Pad", ["x", "p"], ["y"])], [4, 5], {"p": np.array([1, 0, 2, 1])}),
    "turned": ([N("Transpose", ["x"], ["y"], perm=[2, 0, 1])], [3, 4, 5], {}),
    "turned about": ([N("Transpose", ["x"], ["y"])], [3, 4, 5], {}),
    "reshaped": ([N("Reshape", ["x", "to"], ["y"])], [4, 6], {"to": np.array([-1, 3])}),
    "expanded": ([N("Expand", ["x", "to"], ["y"])], [4, 1], {"to": np.array([2, 4, 3])}),
    "tiled": ([N("Tile", ["x", "to"], ["y"])], [4, 2], {"to": np.array([2, 3])}),
    "a layer": ([N("MatMul", ["x", "w"], ["y"])], [4, 8], {"w": _random(8, 6)}),
    "a vector's layer": ([N("MatMul", ["x", "w"], ["y"])], [8], {"w": _random(8, 6)}),
    "a constant's product": ([N("MatMul", ["w", "x"], ["y"])], [8, 4], {"w": _random(6, 8)}),
    "its own product": ([N("Transpose", ["x"], ["t"]), N("MatMul", ["x", "t"], ["y"])], [4, 8], {}),
    "of vectors": ([N("MatMul", ["x", "x"], ["y"])], [8], {}),
    "Gemm": ([N("Gemm", ["x", "x", "c"], ["y"], transB=1, alpha=0.5, beta=2.0)], [4, 8], {"c": _random(4)}),
    "Einsum with a constant": ([N("Einsum", ["x", "w"], ["y"], equation="ij, jk -> ki")], [4, 5], {"w": _random(5, 6)}),
    "Einsum with itself": ([N("Einsum", ["x", "x"], ["y"], equation="ij,kj->ik")], [4, 5], {}),
    "frames as a convolution's batch": ([N("Conv", ["x", "w", "c"], ["y"], strides=[2], pads=[1, 0])], [5, 3, 16],
                                        {"w": _random(4, 3, 3), "c": _random(4)}),
    "frames as a pooling's batch": ([N("MaxPool", ["x"], ["y"], kernel_shape=[2], strides=[2])], [5, 3, 16], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_all_of_it_is_one_items(case: str) -> None:
    nodes, shape, constants = CASES[case]
    whole(nodes, shape, constants)


@pytest.mark.parametrize("case", [c for c in CASES if "batch" not in c])
def test_the_batch_is_the_files_1(case: str) -> None:
    """The same with a 1 in front that the file takes off and puts back."""
    nodes, shape, constants = CASES[case]
    inner = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    for node in inner:
        for names in (node.input, node.output):
            names[:] = [{"x": "x0", "y": "y0"}.get(n, n) for n in names]
    around = [N("Squeeze", ["x", "first"], ["x0"]), *inner, N("Unsqueeze", ["y0", "first"], ["y"])]
    model = graph(around, {"x": [1, *shape]}, {"y": None}, {**constants, "first": np.array([0])}, opset=20)
    found = adapt(model, "m", {}, {})
    assert found.difference < 1e-5
    assert dims(found.model.graph.input[0]) == (BATCH, *shape)


def test_a_state_whose_batch_is_behind() -> None:
    nodes = [N("Gather", ["h", "one"], ["last"], axis=0), N("MatMul", ["x", "w"], ["p"]), N("Add", ["p", "last"], ["y"])]
    shape = whole(nodes, [5, 8], {"w": _random(8, 6), "one": np.array(1)}, others={"h": (2, BATCH, 6)})
    assert shape == (BATCH, 5, 6)


def test_outputs_that_are_constant_or_of_nothing() -> None:
    nodes = [N("Shape", ["x"], ["s"]), N("Cast", ["s"], ["c"], to=1), N("Relu", ["x"], ["y"])]
    model = graph(nodes, {"x": [4, 5]}, {"y": None, "c": None}, {}, opset=20)
    found = adapt(model, "m", {"x": (4, 5)}, {}).model
    assert [dims(o) for o in found.graph.output] == [(BATCH, 4, 5), (BATCH, 2)]


def test_what_mixes_the_items_it_is_given_is_refused() -> None:
    """Its first dimension is open, and what it makes of one depends on the others: one at a time would be another function."""
    nodes = [N("ReduceMean", ["x", "zero"], ["m"]), N("Sub", ["x", "m"], ["y"])]
    with pytest.raises(EdgeEmoError, match="its streams are not independent"):
        adapt(graph(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"zero": np.array([0])}, opset=20), "m", {}, {})


def test_a_size_that_may_be_either_names_both_ways() -> None:
    model = graph([N("Softmax", ["x"], ["y"], axis=0)], {"x": [4, 5]}, {"y": [4, 5]}, {}, opset=20)
    with pytest.raises(EdgeEmoError, match=r"--shape x=batch,5 where .*--shape x=4,5 where all of it is one item's"):
        adapt(model, "m", {}, {})


def test_an_operator_without_a_rule_is_named() -> None:
    nodes = [N("Unique", ["x"], ["u"], name="odd"), N("ReduceSum", ["u"], ["y"])]
    with pytest.raises(EdgeEmoError, match=r"node odd \(Unique\): .*export the file"):
        adapt(graph(nodes, {"x": [4, 5]}, {"y": None}, {}, opset=20), "m", {"x": (4, 5)}, {})


def test_by_the_command_line(tmp_path: Path) -> None:
    """A shape without "batch", and a word that says so where it is neither."""
    given, made = tmp_path / "m.onnx", tmp_path / "a.onnx"
    onnx.save(graph([N("Softmax", ["x"], ["y"], axis=0)], {"x": [4, 5]}, {"y": [4, 5]}, {}, opset=20), given)
    for shape, code in (("x=4,batch,batch", 2), ("x=4,-5", 2), ("x", 2), ("x=4,5", 0)):
        result = CliRunner().invoke(main, ["adapt", str(given), "--shape", shape, "--out", str(made)])
        assert result.exit_code == code
        assert (code == 0) == made.exists()
        assert code == 0 or "not where all is one item's" in " ".join(result.output.split())
    assert dims(onnx.load(made).graph.input[0]) == (BATCH, 4, 5)
