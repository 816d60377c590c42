"""An artifact that answers otherwise than ONNX Runtime is not written, and the first wrong tensor is named."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper
from tvm import relax

from edgeemo.cli.main import main
from edgeemo.compile import check, converters
from edgeemo.compile.check import check_artifact, compile_checked
from edgeemo.compile.compiler import compile_onnx
from edgeemo.onnxlib.feeds import Feed
from edgeemo.targets.board import load_target
from tests.graphs import graph, quantized

pytestmark = pytest.mark.slow
W = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)


def model(path: Path) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Softsign", ["a"], ["b"], name="bent"),
        helper.make_node("MatMul", ["b", "w"], ["y"], name="second"),
    ]
    onnx.save(graph(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, {"w": W}), path)
    return path


def edgeemo(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def manifest(artifact: Path) -> dict[str, object]:
    with zipfile.ZipFile(artifact) as archive:
        return dict(json.loads(archive.read("manifest.json")))


@pytest.fixture
def wrong_softsign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(converters.CONVERTERS, "Softsign", lambda bb, inputs, attrs, opset: relax.op.negative(inputs[0]))


def test_a_right_artifact_says_that_it_was_checked(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    for option, said in (("--check", True), ("--no-check", False)):
        done = edgeemo("compile", path, "--target", "host", "--out", tmp_path / "m.edgeemo", "--force", option)
        assert done.exit_code == 0, done.output
        assert manifest(tmp_path / "m.edgeemo")["checked"] is said


def test_the_first_wrong_tensor_is_named_and_nothing_written(tmp_path: Path, wrong_softsign: None) -> None:
    path = model(tmp_path / "m.onnx")
    done = edgeemo("compile", path, "--target", "host", "--out", tmp_path / "m.edgeemo")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert (
        "output y differs from ONNX Runtime's by" in line and "tensor b of node bent (Softsign)" in line and "--no-check" in line
    )
    assert not (tmp_path / "m.edgeemo").exists()
    assert edgeemo("compile", path, "--target", "host", "--out", tmp_path / "m.edgeemo", "--no-check").exit_code == 0


def test_a_wrong_int8_model_is_refused(tmp_path: Path, wrong_softsign: None) -> None:
    path = tmp_path / "int8.onnx"
    onnx.save(quantized(onnx.load(model(tmp_path / "m.onnx")), tmp_path), path)
    done = edgeemo("compile", path, "--target", "host", "--out", tmp_path / "m.edgeemo")
    assert done.exit_code == 1
    assert "of its norm; the first wrong one is tensor b of node bent (Softsign)" in done.output
    assert not (tmp_path / "m.edgeemo").exists()


@pytest.mark.parametrize(("by_itself", "refused"), [(0.0, True), (0.03, True), (0.05, False)])
def test_int8_may_differ_by_what_other_rounding_makes_of_it(by_itself: float, refused: bool) -> None:
    """A model that makes much of one value rounded to the next level: text recognition on made-up inputs, 0.09 of the norm where
    ONNX Runtime, rounded otherwise, differs from itself by as much."""
    wanted = np.ones(100, np.float32)
    said = check._differs({"y": wanted * 1.09}, {"y": wanted}, {"y": wanted * (1 + by_itself)}, int8=True)
    assert bool(said) is refused


def test_an_int8_answer_that_rounding_decides_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "int8.onnx"
    onnx.save(quantized(onnx.load(model(tmp_path / "m.onnx")), tmp_path), path)
    archive = compile_onnx(path, load_target("host")).archive
    assert check_artifact(path, archive) == []
    real = check._run

    def off(model: onnx.ModelProto, feed: Feed) -> check.Outputs:
        otherwise = any("rounded_otherwise" in node.output[0] for node in model.graph.node)
        return {name: a * (1.15 if otherwise else 1.09) for name, a in real(model, feed).items()}

    monkeypatch.setattr(check, "_run", off)
    (said,) = check_artifact(path, archive)
    assert said.startswith(f"{path}: output y differs") and "rounding decides it" in said and "--feeds" in said


def sure(path: Path, folder: Path) -> Path:
    """An INT8 model of answers far from one half: what goes into its Sigmoid is -30 and the like."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Softsign", ["a"], ["b"], name="bent"),
        helper.make_node("Abs", ["b"], ["c"]),
        helper.make_node("Mul", ["c", "k"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["y"], name="answer"),
    ]
    made = graph(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, {"w": W, "k": np.float32(-60)})
    onnx.save(quantized(made, folder), path)
    return path


def test_rounding_before_an_outputs_last_operator_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text detection on made-up inputs: 0.025 of the norm before its Sigmoid were 5.5 behind it, and it was refused."""
    path = sure(tmp_path / "int8.onnx", tmp_path)

    def nearly(bb: relax.BlockBuilder, inputs: list[relax.Expr], attrs: object, opset: int) -> relax.Expr:
        x = inputs[0]
        return relax.op.multiply(relax.op.divide(x, relax.op.add(relax.op.abs(x), relax.const(1.0))), relax.const(1.03))

    monkeypatch.setitem(converters.CONVERTERS, "Softsign", nearly)
    (said,) = check_artifact(path, compile_onnx(path, load_target("host")).archive)
    assert said.startswith(f"{path}: output y differs") and "its Sigmoid makes that of rounding" in said and "--feeds" in said


def test_a_last_operator_that_is_wrong_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sure(tmp_path / "int8.onnx", tmp_path)
    right = compile_onnx(path, load_target("host")).archive
    assert check_artifact(path, right) == []
    wrong = lambda bb, inputs, attrs, opset: relax.op.multiply(relax.op.sigmoid(inputs[0]), relax.const(1.2))  # noqa: E731
    monkeypatch.setitem(converters.CONVERTERS, "Sigmoid", wrong)
    archive = compile_onnx(path, load_target("host")).archive
    with pytest.raises(EdgeEmoError, match=r"node answer \(Sigmoid\)"):
        check_artifact(path, archive)
    monkeypatch.undo()  # only the whole artifact is wrong now, no part of it that is compiled anew
    with pytest.raises(EdgeEmoError, match="output y differs"):
        check_artifact(path, archive)


def test_a_boards_artifact_is_checked_by_way_of_this_machine(tmp_path: Path, wrong_softsign: None) -> None:
    with pytest.raises(EdgeEmoError, match="node bent"):
        compile_checked(model(tmp_path / "m.onnx"), load_target("aarch64-neon"))


def test_feeds_are_compared_on_and_must_fit(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    np.savez(tmp_path / "0.npz", x=np.ones((2, 8), np.float32))
    assert compile_checked(path, load_target("host"), feeds=tmp_path).manifest["checked"]
    np.savez(tmp_path / "0.npz", x=np.ones((2, 9), np.float32))
    with pytest.raises(EdgeEmoError, match=r"0\.npz: x is"):
        compile_checked(path, load_target("host"), feeds=tmp_path)


def test_a_node_that_does_not_compile_is_named_with_a_way_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["d"], name="area"), helper.make_node("Relu", ["d"], ["y"])]
    onnx.save(graph(nodes, {"x": ["n", 3, 3]}, {"y": ["n"]}), tmp_path / "m.onnx")
    done = edgeemo("compile", tmp_path / "m.onnx", "--target", "host", "--out", tmp_path / "m.edgeemo")
    (line,) = done.stderr.splitlines()
    assert done.exit_code == 1 and "node area (Det)" in line and "edgeemo adapt" in line


def test_the_float_model_passes_its_own_check(files: dict[str, Path], host_artifacts: dict[str, Path]) -> None:
    """The committed weights in float: what `edgeemo compile build/emotion.onnx` does."""
    check_artifact(files["float"], host_artifacts["float"].read_bytes())
