"""Operators that no kernel of ours covers, through schedules of ours: the same numbers whatever the shape and the axis."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeemo_runtime.artifact import load_artifact
from onnx import TensorProto, helper
from tvm import ir, relax

from edgeemo.adapt.adapt import adapt, run
from edgeemo.compile.compiler import compile_onnx
from edgeemo.compile.passes import legalize
from edgeemo.onnxlib.feeds import made_up
from edgeemo.targets.board import load_target
from tests.graphs import compiled, graph

pytestmark = pytest.mark.slow

SHAPES = [(3, 8), (5, 7), (6, 20), (2, 3, 16), (1, 64), (18, 12)]


def operators(shape: tuple[int, ...]) -> tuple[list[onnx.NodeProto], dict[str, list[int | str]], dict[str, np.ndarray]]:
    """Every reduction over every axis and over all, every polynomial, quotients, slices and what they are joined to."""
    nodes: list[onnx.NodeProto] = []
    outputs: dict[str, list[int | str]] = {}
    axes = range(1, len(shape) + 1)
    for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"):
        for over in [*([a] for a in axes), list(axes)]:
            name = f"{op}{''.join(map(str, over))}"
            nodes.append(helper.make_node(op, ["x", f"axes{''.join(map(str, over))}"], [name]))
            outputs[name] = ["n", *(1 if a in over else shape[a - 1] for a in axes)]
    constants = {f"axes{a}": np.array([a]) for a in axes} | {f"axes{''.join(map(str, axes))}": np.array(list(axes))}
    nodes.append(helper.make_node("Exp", ["x"], ["positive"]))
    for op in ("Log", "Sigmoid", "Tanh", "Erf", "Sqrt"):
        nodes.append(helper.make_node(op, ["positive"], [op]))
        outputs[op] = ["n", *shape]
    for axis in axes:
        nodes.append(helper.make_node("Softmax", ["x"], [f"softmax{axis}"], axis=axis))
        outputs[f"softmax{axis}"] = ["n", *shape]
    constants |= {"seven": np.float32(7), "tiny": np.float32(1e-35), "each": np.linspace(1, 2, shape[-1]).astype(np.float32)}
    for divisor in ("seven", "tiny", "each"):
        nodes.append(helper.make_node("Div", ["x", divisor], [f"over_{divisor}"]))
        outputs[f"over_{divisor}"] = ["n", *shape]
    for axis in axes:  # a number that a whole tensor is compared with, inside the reduction that follows
        nodes += [
            helper.make_node("Max", ["positive", "seven"], [f"bounded{axis}"]),
            helper.make_node("ReduceMin", [f"bounded{axis}", f"axes{axis}"], [f"bound{axis}"]),
        ]
        outputs[f"bound{axis}"] = ["n", *(1 if a == axis else shape[a - 1] for a in axes)]
    for axis in axes:
        ends = {"first": np.array([0]), "one": np.array([1]), "end": np.array([1 << 30]), f"along{axis}": np.array([axis])}
        constants |= ends
        nodes += [
            helper.make_node("Slice", ["Tanh", "one", "end", f"along{axis}"], [f"tail{axis}"]),
            helper.make_node("Concat", ["x", f"tail{axis}", "positive"], [f"joined{axis}"], axis=axis),
        ]
        outputs[f"joined{axis}"] = ["n", *(3 * shape[a - 1] - (a == axis) if a == axis else shape[a - 1] for a in axes)]
    return nodes, outputs, constants


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stock_operators_are_right(shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes, outputs, constants = operators(shape)
    model = adapt(graph(nodes, {"x": ["n", *shape]}, outputs, constants, 18), "m", {}, {}).model
    feed = made_up(model, 5)
    expected, found = run(model, feed), compiled(model, tmp_path)[1].run(feed)
    assert set(found) == set(outputs)
    for name, values in found.items():
        tolerance = 1e-4 if name.startswith("Erf") else 1e-5
        np.testing.assert_allclose(values, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_slice_for_the_end_is_taken_at_once(tmp_path: Path) -> None:
    """The source of a slice does not stay in the arena until the end."""

    def arena(late: bool) -> int:
        nodes = [helper.make_node("Sigmoid", ["x"], ["a"])]
        slice_ = helper.make_node("Slice", ["a", "zero", "four", "one"], ["tail"])
        chain = [helper.make_node("MatMul", ["a", "w"], ["b"]), helper.make_node("MatMul", ["b", "w"], ["c"])]
        nodes += [*chain, slice_] if late else [slice_, *chain]
        nodes.append(helper.make_node("MatMul", ["c", "w"], ["y"]))
        constants = {"w": np.eye(64, dtype=np.float32), "zero": np.array([0]), "four": np.array([4]), "one": np.array([1])}
        model = adapt(
            graph(nodes, {"x": ["n", 32, 64]}, {"tail": ["n", 4, 64], "y": ["n", 32, 64]}, constants), "m", {}, {}
        ).model
        onnx.save(model, tmp_path / "m.onnx")
        (tmp_path / "m.edgeemo").write_bytes(compile_onnx(tmp_path / "m.onnx", load_target("host")).archive)
        return int(load_artifact(tmp_path / "m.edgeemo").manifest["step"]["arena_bytes_per_stream"])

    assert arena(late=True) == arena(late=False) == 2 * 32 * 64 * 4


@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
def test_the_extreme_of_infinities_is_infinite(kind: str, tmp_path: Path) -> None:
    """As a row is that a mask leaves nothing of."""
    nodes = [helper.make_node(kind, ["x", "axis"], ["y"], keepdims=0), helper.make_node(kind, ["x", "both"], ["z"])]
    constants = {"axis": np.array([2]), "both": np.array([1, 2])}
    model = graph(nodes, {"x": ["n", 3, 8]}, {"y": ["n", 3], "z": ["n", 1, 1]}, constants, opset=20)
    _, function = compiled(model, tmp_path)
    x = np.full((2, 3, 8), -np.inf if kind == "ReduceMax" else np.inf, np.float32)
    x[1, 1, 3] = 2.0
    wanted, got = run(model, {"x": x}), function.run({"x": x})
    for name in ("y", "z"):
        np.testing.assert_array_equal(got[name], wanted[name])


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 2.0, 87.9, 88.5, 89.0, -87.5, -100.0, -110.0, 3e38, 1e-3, -1e-6]
FUNCTIONS = ["Exp", "Log", "Tanh", "Sigmoid", "Erf", "Relu", "Sqrt", "Softplus", "Mish", "Elu", "Abs", "Atan", "Sign"]


@pytest.mark.parametrize("count", [16, 15])  # in whole vectors, and one by one
def test_what_is_no_number_or_infinite_stays_so(count: int, tmp_path: Path) -> None:
    """As in ONNX Runtime, maxima and minima with constants on either side included."""
    nodes = [helper.make_node(op, ["x"], [op]) for op in FUNCTIONS]
    nodes += [helper.make_node(op, pair, [f"{op}{pair[0]}"]) for op in ("Max", "Min") for pair in (["x", "c"], ["c", "x"])]
    outputs: dict[str, list[int | str]] = {n.output[0]: ["n", count] for n in nodes}
    model = adapt(graph(nodes, {"x": ["n", count]}, outputs, {"c": np.float32(0.5)}, 20), "m", {}, {}).model
    x = np.resize(np.array(SPECIAL, np.float32), (2, count))
    wanted, got = run(model, {"x": x}), compiled(model, tmp_path)[1].run({"x": x})
    for name in outputs:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-35, err_msg=name)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("ArgMax", {}), ("ArgMin", {}), ("ArgMax", {"select_last_index": 1}), ("ArgMin", {"select_last_index": 1}),
        ("ArgMax", {"keepdims": 0}), ("Hardmax", {}), ("ReduceLogSumExp", {}), ("ReduceLogSumExp", {"keepdims": 0}),
    ],
)  # fmt: skip
def test_reductions_of_infinities(op: str, attributes: dict[str, int], tmp_path: Path) -> None:
    """Rows of nothing but their least value: places were -1 and 4, which a Gather behind them reads from."""
    inf = np.inf
    rows = [[inf] * 4, [-inf] * 4, [inf, inf, 1, inf], [1, -inf, -inf, -inf], [inf, -inf, 3, 0], [1, 2, 2, 1], [-0.0, 0, -0.0, 0]]
    axes = {"axes": [1]} if op.startswith("Reduce") else {"axis": 1}
    node = helper.make_node(op, ["x"], ["y"], **axes, **attributes)
    kept = [] if attributes.get("keepdims") == 0 else [4 if op == "Hardmax" else 1]
    model = graph([node], {"x": ["n", 4]}, {"y": ["n", *kept]}, opset=13)
    if op.startswith("Arg"):
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    x = np.array(rows, np.float32)
    np.testing.assert_array_equal(compiled(model, tmp_path)[1].run({"x": x})["y"], run(model, {"x": x})["y"])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_a_place_among_bytes_that_are_all_alike(op: str, tmp_path: Path) -> None:
    x = np.array([[0] * 3, [255] * 3, [0, 255, 255]], np.uint8)
    model = graph([helper.make_node(op, ["x"], ["y"], axis=1)], {"x": ["n", 3]}, {"y": ["n", 1]}, opset=13)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    np.testing.assert_array_equal(compiled(model, tmp_path)[1].run({"x": x})["y"], run(model, {"x": x})["y"])


def test_powers_of_every_special_value(tmp_path: Path) -> None:
    """By C's rules (Annex F): what is no number stays so, but 1 ** NaN and NaN ** 0 are 1."""
    numbers = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 0.3, 1e30, -1e-30], np.float32)
    base, exponent = (v.reshape(1, -1) for v in np.meshgrid(numbers, numbers))
    shapes: dict[str, list[int | str]] = {name: ["n", base.size] for name in "xe"}
    model = graph([helper.make_node("Pow", ["x", "e"], ["y"])], shapes, {"y": ["n", base.size]}, opset=20)
    feeds = {"x": base, "e": exponent}
    np.testing.assert_allclose(compiled(model, tmp_path)[1].run(feeds)["y"], run(model, feeds)["y"], rtol=2e-5)


@pytest.mark.parametrize("before", ["Round", "Concat"])
def test_what_tvm_does_not_vectorize_may_be_read_twice(before: str, tmp_path: Path) -> None:
    """By a function of its own that looks for NaN, and the square of that."""
    joined = before == "Concat"
    first = helper.make_node(before, ["x", "x"] if joined else ["x"], ["a"], **({"axis": 1} if joined else {}))
    nodes = [first, helper.make_node("Cos", ["a"], ["b"]), helper.make_node("ReduceSumSquare", ["b", "axes"], ["y"])]
    model = graph(nodes, {"x": ["n", 2, 1, 4]}, {"y": ["n", 1, 1, 4]}, {"axes": np.array([1])}, opset=20)
    x = np.random.default_rng(0).standard_normal((3, 2, 1, 4)).astype(np.float32)
    got = compiled(adapt(model, "m", {}, {}).model, tmp_path)[1].run({"x": x})["y"]
    np.testing.assert_allclose(got, run(model, {"x": x})["y"], rtol=1e-5)


def test_a_chain_of_remainders_is_no_code_of_exponential_size(tmp_path: Path) -> None:
    """Each reads its argument ten times: written into one expression, four of them take LLVM longer than anybody waits."""
    divisors = {f"d{i}": np.float32(d) for i, d in enumerate((3.1, 1.7, 0.9, 0.4))}
    names = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("Mod", [names[i], f"d{i}"], [names[i + 1]], fmod=1) for i in range(4)]
    model = graph(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, divisors, opset=20)
    x = np.random.default_rng(0).normal(scale=5, size=(3, 8)).astype(np.float32)
    got = compiled(adapt(model, "m", {}, {}).model, tmp_path)[1].run({"x": x})["y"]
    np.testing.assert_allclose(got, run(model, {"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize("op", ["Softplus", "Mish"])
def test_small_results_are_right_by_themselves(op: str, tmp_path: Path) -> None:
    """Every number to a relative error: log(1 + u) of a small u is no log of what 1 + u is rounded to."""
    x = np.linspace(-16, 16, 64, dtype=np.float32)[None]
    model = adapt(graph([helper.make_node(op, ["x"], ["y"])], {"x": ["n", 64]}, {"y": ["n", 64]}, opset=20), "m", {}, {}).model
    plus = np.log1p(np.exp(x.astype(float)))
    wanted = plus if op == "Softplus" else x * np.tanh(plus)
    np.testing.assert_allclose(compiled(model, tmp_path)[1].run({"x": x})["y"], wanted, rtol=1e-6)


def test_erf_is_right_by_itself(tmp_path: Path) -> None:
    """To a relative error: a norm behind it makes much of what its neighbours differ by."""
    x = np.geomspace(1e-30, 5, 128, dtype=np.float32)[None] * np.array([[1], [-1]], np.float32)
    model = graph([helper.make_node("Erf", ["x"], ["y"])], {"x": ["n", 128]}, {"y": ["n", 128]}, opset=20)
    wanted = np.vectorize(math.erf)(x.astype(float))
    np.testing.assert_allclose(compiled(model, tmp_path)[1].run({"x": x})["y"], wanted, rtol=5e-7)


def test_tanh_near_zero_is_right_by_itself(tmp_path: Path) -> None:
    """To a relative error: what is behind it may divide by it or multiply it by something large."""
    x = np.geomspace(1e-30, 3, 64, dtype=np.float32)[None] * np.array([[1], [-1]], np.float32)
    model = graph([helper.make_node("Tanh", ["x"], ["y"])], {"x": ["n", 64]}, {"y": ["n", 64]}, opset=20)
    np.testing.assert_allclose(compiled(model, tmp_path)[1].run({"x": x})["y"], np.tanh(x.astype(float)), rtol=5e-7)


def test_equal_operators_are_lowered_once() -> None:
    """A network unrolled over time has thousands of them; those with another constant, attribute or shape are not equal."""
    calls: list[str] = []

    def counted(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        calls.append(str(call))
        return legalize._divide(builder, call)

    times = legalize._once(counted)
    builder = relax.BlockBuilder()
    x, y, wide = (relax.Var(n, relax.TensorType([2, size], "float32")) for n, size in (("x", 8), ("y", 8), ("wide", 16)))
    with builder.function("main", [x, y, wide]):
        two, third = relax.const(2.0), relax.const(np.float32(1 / 3))
        made = [
            builder.emit(times(builder, builder.normalize(relax.op.divide(a, b))))
            for a, b in ((x, y), (y, x), (x, two), (y, two), (x, third), (wide, two), (wide, wide))
        ]
        builder.emit_func_output(relax.Tuple(made))
    assert len(calls) == 5  # y / x and y / 2 are like those before them
    assert made[1].ty.shape[1] == 8 and made[5].ty.shape[1] == 16


def test_attributes_are_equal_to_the_last_bit() -> None:
    """TVM prints six digits of them."""
    once = legalize._once(ir.Op.get("relax.nn.leakyrelu").get_attr("FLegalize"))
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType([2, 8], "float32"))
    with builder.function("main", [x]):
        slopes = (0.01, 0.0100000001, 0.01)
        made = [once(builder, builder.normalize(relax.op.nn.leakyrelu(x, slope))) for slope in slopes]
        builder.emit_func_output(builder.emit(made[0]))
    assert made[0].args[0].same_as(made[2].args[0])
    assert not made[0].args[0].same_as(made[1].args[0])


@pytest.mark.parametrize("constant", [True, False])
def test_what_depends_on_constants_alone_is_computed_here(constant: bool) -> None:
    """Sums of two constants, and of x and one, on their way to a product."""
    one = relax.const(np.linspace(0, 1, 8).astype(np.float32))
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 8), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            total = bb.emit(relax.op.add(one if constant else x, one))
            product = bb.emit_output(relax.op.multiply(relax.op.exp(x), total))
        bb.emit_func_output(product)
    names = [gv.name_hint for gv in legalize.run(bb.finalize()).functions]
    assert any("add" in name for name in names) != constant, names
