"""Foreign graphs through the whole chain: adapted, quantized on feeds, compiled, run; equal to ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from edgeemo_runtime import EdgeEmoError
from edgeemo_runtime.ops.cli import main as runtime_main
from onnx import helper

from edgeemo.adapt.adapt import adapt, run
from edgeemo.cli.main import main
from edgeemo.onnxlib.feeds import made_up
from tests.graphs import compiled, graph, recurrence

pytestmark = pytest.mark.slow


def edgeemo(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.mark.parametrize(
    "kind, direction, options",
    [
        ("LSTM", "bidirectional", {}),
        ("GRU", "forward", {}),  # its split's parts are read at different times: once, the arena gave a live one's place away
        ("GRU", "bidirectional", {"linear_before_reset": 1}),
    ],
)
def test_recurrences_compile_to_the_same_numbers(kind: str, direction: str, options: dict[str, object], tmp_path: Path) -> None:
    model = adapt(recurrence(kind, direction, **options), "m", {}, {}).model
    feed = made_up(model, 5)
    got, wanted = compiled(model, tmp_path)[1].run(feed), run(model, feed)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], atol=2e-6)


@pytest.mark.parametrize(
    "window, channels, options, ours",
    [
        ((2, 2), 5, {"strides": [2, 2]}, True),
        ((2, 3), 1, {"strides": [2, 3]}, True),
        ((4,), 6, {"strides": [4]}, True),
        ((3, 3), 5, {"strides": [2, 2]}, False),  # windows that overlap
        ((2, 2), 5, {"strides": [2, 2], "pads": [0, 1, 0, 1]}, False),
    ],
)
def test_transposed_convolutions_side_by_side_are_products(
    window: tuple[int, ...], channels: int, options: dict[str, list[int]], ours: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    weights = {
        "w": rng.standard_normal((8, channels, *window)).astype(np.float32),
        "b": rng.standard_normal(channels).astype(np.float32),
    }
    sizes = (5, 6)[: len(window)]
    nodes = [helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], name="up", kernel_shape=window, **options)]
    model = graph(nodes, {"x": ["n", 8, *sizes]}, {"y": ["n", channels, *("h", "v")[: len(window)]]}, weights, 17)
    model = adapt(model, "m", {}, {}).model
    assert ("ConvTranspose" not in {n.op_type for n in model.graph.node}) == ours
    made, function = compiled(model, tmp_path)
    assert any(name.startswith("gemm") for name in made.kernels) == ours
    feed = made_up(model, 3)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-5, atol=1e-5)


W = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
BACK, ROWS = np.array([-1, 4, 6]), np.array([-1, 8])
FLATTENED = {
    # Softmax of before opset 13 is of a matrix; so are layers that a torch of that time wrote.
    "softmax": (
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Softmax", ["p"], ["y"], axis=2)], [4, 6], {"w": W}, 11,
    ),
    "gemm": (
        [helper.make_node("Reshape", ["x", "rows"], ["t"]), helper.make_node("Gemm", ["t", "w", "b"], ["p"]),
         helper.make_node("Reshape", ["p", "back"], ["y"])],
        [4, 6], {"rows": ROWS, "w": W, "b": W[0], "back": BACK}, 17,
    ),
    "matmul, two dimensions made one": (
        [helper.make_node("Reshape", ["x", "split"], ["s"]), helper.make_node("Reshape", ["s", "rows"], ["t"]),
         helper.make_node("MatMul", ["t", "w"], ["p"]), helper.make_node("Reshape", ["p", "back"], ["y"])],
        [4, 6], {"split": np.array([-1, 4, 2, 4]), "rows": ROWS, "w": W, "back": BACK}, 17,
    ),
    "what stands between layers": (
        [helper.make_node("Reshape", ["x", "rows"], ["t"]), helper.make_node("Sigmoid", ["t"], ["g"]),
         helper.make_node("Mul", ["t", "g"], ["silu"]),
         helper.make_node("LayerNormalization", ["silu", "gain", "gain"], ["norm"]),
         helper.make_node("ReduceMax", ["norm", "last"], ["top"]), helper.make_node("Sub", ["norm", "top"], ["low"]),
         helper.make_node("Concat", ["low", "t"], ["both"], axis=1), helper.make_node("MatMul", ["both", "w2"], ["p"]),
         helper.make_node("Add", ["p", "row"], ["q"]), helper.make_node("Reshape", ["q", "back"], ["y"])],
        [4, 6],
        {"rows": ROWS, "last": np.array([1]), "gain": W[:, 0], "w2": np.concatenate((W, W)), "row": W[:1], "back": BACK}, 18,
    ),
    "quantized": (
        [helper.make_node("Reshape", ["x", "rows"], ["t"]),
         helper.make_node("QuantizeLinear", ["t", "scale", "zero"], ["tq"]),
         helper.make_node("DequantizeLinear", ["tq", "scale", "zero"], ["td"]),
         helper.make_node("DequantizeLinear", ["wq", "wscale", "wzero"], ["wd"], axis=1),
         helper.make_node("MatMul", ["td", "wd"], ["p"], name="product"), helper.make_node("Reshape", ["p", "back"], ["y"])],
        [4, 6],
        {"rows": ROWS, "scale": np.float32(0.03), "zero": np.int8(0), "wq": np.rint(W * 40).clip(-127, 127).astype(np.int8),
         "wscale": np.full(6, 1 / 40, np.float32), "wzero": np.zeros(6, np.int8), "back": BACK}, 17,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FLATTENED)
def test_rows_that_were_made_one_matrix_are_kept_apart(case: str, tmp_path: Path) -> None:
    nodes, shape, constants, opset = FLATTENED[case]
    model = adapt(graph(nodes, {"x": ["n", 4, 8]}, {"y": ["n", *shape]}, constants, opset), "m", {}, {}).model
    feed = made_up(model, 3)
    np.testing.assert_allclose(compiled(model, tmp_path)[1].run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-5)


def test_rows_of_another_order_take_the_stock_way(tmp_path: Path) -> None:
    """(4, batch, 8) x w: a product that no kernel of ours goes through stream by stream."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["p"], name="product"),
        helper.make_node("Transpose", ["p"], ["y"], perm=[1, 0, 2]),
    ]
    model = adapt(graph(nodes, {"x": ["n", 4, 8]}, {"y": ["n", 4, 6]}, {"w": W}), "m", {}, {}).model
    made, function = compiled(model, tmp_path)
    assert made.stock_products == ["relax.matmul [4, None, 6]"]
    feed = made_up(model, 3)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-5)


def test_what_goes_over_rows_of_several_items_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"]),
        helper.make_node("Slice", ["r", "first", "last", "along"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["g"]),
        helper.make_node("MatMul", ["g", "half"], ["p"], name="product"),
        helper.make_node("Reshape", ["p", "back"], ["y"]),
    ]
    along = {"first": np.array([0]), "last": np.array([4]), "along": np.array([1])}
    constants = {"rows": ROWS, "half": W[:4], "back": BACK, **along}
    model = graph(nodes, {"x": ["batch", 4, 8]}, {"y": ["batch", 4, 6]}, constants, opset=20)
    with pytest.raises(
        EdgeEmoError, match=r"m.onnx: .*node s .*operator \w*sigmoid goes over rows that are not one item's own.*: product"
    ):
        compiled(model, tmp_path)
    # `adapt` gives every item its own.
    apart = adapt(model, "m", {}, {}).model
    _, function = compiled(apart, tmp_path)
    feed = made_up(apart, 3)
    np.testing.assert_allclose(function.run(feed)["y"], run(model, feed)["y"], rtol=1e-4, atol=1e-5)


def test_from_a_foreign_file_to_int8_answers_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An LSTM of 16 with its gates in INT8, calibrated on .npz files."""
    monkeypatch.chdir(tmp_path)
    onnx.save(recurrence("LSTM", "forward", steps=6, hidden=16), "theirs.onnx")
    rng = np.random.default_rng(0)
    Path("feeds").mkdir()
    for i in range(8):
        np.savez(f"feeds/{i}.npz", x=rng.standard_normal((4, 6, 8)).astype(np.float32))
    assert edgeemo("adapt", "theirs.onnx", "--out", "ours.onnx").exit_code == 0
    done = edgeemo("quantize", "ours.onnx", "--feeds", "feeds", "--recipe", "int8-mse", "--out", "int8.onnx", "--json")
    assert done.exit_code == 0, done.output
    gates = {layer["name"]: layer for layer in json.loads(done.stdout)["layers"]}
    assert len(gates) == 6 and all(layer["precision"] == "int8" and layer["sqnr_db"] > 20 for layer in gates.values())
    built = edgeemo("compile", "int8.onnx", "--target", "host", "--out", "int8.edgeemo", "--json")
    assert built.exit_code == 0, built.output
    assert any(name.startswith("gemm_s8") for name in json.loads(built.stdout)["kernels"])
    runtime_main(["feed", "int8.edgeemo", "feeds/0.npz", "--out", "answers.npz"])
    feed = dict(np.load("feeds/0.npz"))
    answers = np.load("answers.npz")
    for reference, close in (("int8.onnx", 0.02), ("ours.onnx", 0.06)):
        wanted = run(onnx.load(reference), feed)["out"]
        assert np.abs(answers["out"] - wanted).max() < close
    assert np.abs(answers["out"] - run(onnx.load("ours.onnx"), feed)["out"]).max() > 0


def test_mistakes_name_the_file_and_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = recurrence("LSTM", "forward")
    onnx.save(theirs, "theirs.onnx")
    assert edgeemo("adapt", "theirs.onnx", "--out", "ours.onnx").exit_code == 0

    def refused(words: str, *args: object) -> None:
        done = edgeemo(*args, "--out", "x")
        assert done.exit_code in (1, 2) and words in done.stderr, done.output
        assert not Path("x").exists()

    refused("`edgeemo adapt` makes it so", "compile", "theirs.onnx", "--target", "host")
    refused("write INPUT=batch,3,48,192", "adapt", "theirs.onnx", "--shape", "x=3,batch,batch")
    refused("ONNX Runtime does not run it", "adapt", "theirs.onnx", "--shape", "x=3,4")  # all of it one item's, which has three
    refused("write INPUT=NUMBER", "adapt", "theirs.onnx", "--set", "x=y")
    refused("--feeds DIR takes .npz", "quantize", "ours.onnx")
    refused("no .npz in it", "quantize", "ours.onnx", "--feeds", ".")
    Path("f").mkdir()
    for name, arrays, words in (
        ("missing", {"z": np.zeros(3)}, "missing.npz: has no array x"),
        ("shape", {"x": np.zeros((2, 5, 9), np.float32)}, "shape.npz: x is float32 (2, 5, 9)"),
        ("nan", {"x": np.full((2, 5, 8), np.nan, np.float32)}, "nan.npz: x is not finite"),
    ):
        np.savez(f"f/{name}.npz", **arrays)
        refused(words, "quantize", "ours.onnx", "--feeds", "f")
        Path(f"f/{name}.npz").unlink()
    Path("f/text.npz").write_text("no archive")
    refused("text.npz: not an .npz", "quantize", "ours.onnx", "--feeds", "f")


def test_a_function_takes_any_batch_and_names_what_is_wrong(tmp_path: Path) -> None:
    model = adapt(recurrence("LSTM", "forward"), "m", {}, {}).model
    _, function = compiled(model, tmp_path)
    feed = made_up(model, 37)  # in pieces of 16
    np.testing.assert_allclose(function.run(feed)["out"], run(model, feed)["out"], atol=2e-6)
    for bad, words in (
        ({}, "no input x"),
        ({"x": np.zeros((2, 3))}, r"input x is float64 \(2, 3\)"),
        ({"x": np.zeros((0, 5, 8))}, "at least 1"),
    ):
        with pytest.raises(EdgeEmoError, match=words):
            function.run(bad)
