"""`edgeemo inspect` says of a graph what compiling it does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from edgeemo.adapt.adapt import adapt
from edgeemo.cli.main import main
from edgeemo.compile.inspect import inspect
from edgeemo.targets.board import load_target
from tests.graphs import graph

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "kind, ways", [("int8", {"int8 kernel": 18, "float kernel": 3}), ("fp16", {"int8 kernel": 17, "fp16 kernel": 1})]
)
def test_the_default_models_products_by_path(files: dict[str, Path], kind: str, ways: dict[str, int]) -> None:
    found = inspect(files[kind], load_target("aarch64-neon"))
    paths = [p.path for p in found.products]
    assert found.problem is None and found.unsupported == ()
    for way, count in ways.items():
        assert paths.count(way) == count
    assert "stock" not in paths
    by_name = {p.name: p for p in found.products}
    assert by_name["emotion_conv.conv"].path == ("fp16 kernel" if kind == "fp16" else "int8 kernel")
    assert by_name["layers.0.ffn.up"].macs == 4 * 384 * 1440
    assert 19.0e6 < sum(p.macs for p in found.products) < 20.0e6


def test_a_stock_product_is_called_slow_and_padding_no_reason_for_one(tmp_path: Path) -> None:
    """Three dimensions are stock; one is a kernel's, padded or not."""
    rng = np.random.default_rng(0)
    wide, deep = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 2, 3, 3, 3), (8, 4, 3)))
    many = graph([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": [1, 2, 9, 9, 9]}, {"y": [1, 8, 7, 7, 7]}, {"w": wide})
    one = graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1])], {"x": [1, 4, 9]}, {"y": [1, 8, 9]}, {"w": deep})
    found = []
    for name, model in (("many", many), ("one", one)):
        onnx.save(adapt(model, name, {}, {}).model, tmp_path / f"{name}.onnx")
        found.append(inspect(tmp_path / f"{name}.onnx", load_target("host")).products[0])
    assert found[0].path == "stock" and found[0].note.startswith("slow: 100% of the MACs")
    assert found[0].macs == 7**3 * 8 * 2 * 27
    assert found[1].path == "float kernel" and found[1].note == ""


def test_what_is_unsupported_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("DFT", ["x", "", "axis"], ["y"], name="spectrum")]
    onnx.save(graph(nodes, {"x": ["n", 8, 1]}, {"y": ["n", 8, 2]}, {"axis": np.array(1)}, opset=20), tmp_path / "m.onnx")
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.onnx"), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["unsupported"] == ["spectrum (DFT)"]
    assert document["problem"] == "no lowering for spectrum (DFT)"
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.onnx")])
    assert "does not compile: no lowering for spectrum (DFT)" in shown.stdout


def test_what_ends_in_an_error_of_another_library_does_not_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lower(*args: object) -> None:
        raise ValueError("no such thing\n  at line 3")

    monkeypatch.setattr("edgeemo.compile.inspect.lower", lower)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    onnx.save(graph(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"w": np.eye(4, dtype=np.float32)}), tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx", load_target("aarch64-neon"))
    assert found.problem == "not lowered (no such thing)" and [p.path for p in found.products] == [None]
