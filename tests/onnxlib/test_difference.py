"""The effect of rounding alone on a quantized model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from edgeemo.onnxlib.difference import difference, rounded_otherwise
from edgeemo.onnxlib.session import open_session
from tests.graphs import graph


def _model() -> onnx.ModelProto:
    """x and a constant, both to whole numbers of int8 and back, added."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("QuantizeLinear", ["half", "one", "zero"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "one", "zero"], ["e"]),
        helper.make_node("Add", ["d", "e"], ["y"]),
    ]
    constants = {"one": np.float32(1), "zero": np.int8(0), "half": np.float32(0.5)}
    return graph(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, constants)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(model).run(None, {"x": x})[0])


def test_what_lies_between_two_levels_may_go_to_the_other() -> None:
    x = np.array([[0.5, 1.5, 2.5, 3.5], [0.4, 1.6, -2.3, 3.0]], np.float32)
    model = _model()
    wanted, got = _run(model, x), _run(rounded_otherwise(model), x)
    assert (np.abs(got[0] - wanted[0]) == 1).sum() == 2  # halves go to the even level: every other one has it on its other side
    assert (got[1] == wanted[1]).all()


def test_halves_are_rounded_otherwise_in_their_own_last_bits() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["h", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    model = graph(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"one": np.float16(1), "zero": np.int8(0)}, opset=19)
    x = np.array([[0.5, 1.5, 2.5, 3.5]], np.float32)
    assert (np.abs(_run(rounded_otherwise(model), x) - _run(model, x)) == 1).sum() == 2


def test_only_what_is_computed_is_rounded_otherwise_and_in_a_copy() -> None:
    model = _model()
    before = model.SerializeToString()
    nodes = [n.op_type for n in rounded_otherwise(model).graph.node]
    assert nodes == ["Mul", "QuantizeLinear", "DequantizeLinear", "QuantizeLinear", "DequantizeLinear", "Add"]
    assert model.SerializeToString() == before


def test_a_deep_model_makes_much_of_it_and_a_shallow_one_little() -> None:
    """Layers that fold their values over and over, as activations do, double what is one level off."""

    def folded(layers: int) -> onnx.ModelProto:
        nodes, name = list[onnx.NodeProto](), "x"
        for i in range(layers):
            nodes += [
                helper.make_node("Abs", [name], [f"a{i}"]),
                helper.make_node("Mul", [f"a{i}", "two"], [f"b{i}"]),
                helper.make_node("Sub", [f"b{i}", "one"], [f"c{i}"]),
                helper.make_node("QuantizeLinear", [f"c{i}", "scale", "zero"], [f"q{i}"]),
                helper.make_node("DequantizeLinear", [f"q{i}", "scale", "zero"], [f"d{i}"]),
            ]
            name = f"d{i}"
        nodes.append(helper.make_node("Identity", [name], ["y"]))
        constants = {"two": np.float32(1.999), "one": np.float32(1), "scale": np.float32(1 / 127), "zero": np.int8(0)}
        return graph(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, constants)

    x = np.random.default_rng(0).uniform(-1, 1, (20_000, 4)).astype(np.float32)
    shallow, deep = (difference(_run(rounded_otherwise(m), x), _run(m, x), norms=True) for m in (folded(1), folded(12)))
    assert shallow < 1e-3
    assert deep > 8 * shallow
