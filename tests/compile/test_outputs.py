"""Artifacts of graphs whose outputs are no results of operators, whose names are no identifiers, and that need no library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeemo.adapt.adapt import adapt, run
from tests.graphs import compiled, graph

pytestmark = pytest.mark.slow
N = helper.make_node
rng = np.random.default_rng(0)


def test_outputs_that_are_inputs_views_parts_constants_and_each_other(tmp_path: Path) -> None:
    nodes = [
        N("Split", ["x.1"], ["a", "b"], axis=1, num_outputs=2), N("Reshape", ["x.1", "to"], ["view"]),
        N("Identity", ["k"], ["c"]),
        N("Relu", ["x.1"], ["0"]), N("Identity", ["0"], ["again"]), N("Cast", ["x.1"], ["whole"], to=onnx.TensorProto.INT64),
    ]  # fmt: skip
    shapes = {"a": ["n", 4], "b": ["n", 4], "view": ["n", 2, 4], "c": [3], "0": ["n", 8], "again": ["n", 8], "x.1": ["n", 8],
              "whole": ["n", 8]}  # fmt: skip
    constants = {"to": np.array([-1, 2, 4]), "k": np.arange(3, dtype=np.float32)}
    kinds = {"whole": onnx.TensorProto.INT64}
    model = adapt(graph(nodes, {"x.1": ["n", 8]}, shapes, constants, 18, kinds), "m", {}, {}).model
    _, function = compiled(model, tmp_path)
    assert list(function.inputs) == ["x.1"]
    feed = {"x.1": rng.standard_normal((3, 8)).astype(np.float32)}
    got, wanted = function.run(feed), run(model, feed)
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value)
        assert got[name].dtype == value.dtype


@pytest.mark.parametrize("kind", ["Sin", "Cos", "Tan", "Atan", "Asinh", "Sinh", "Cosh", "Asin", "Acos", "Atanh", "Acosh", "Log"])
def test_functions_without_a_library(kind: str, tmp_path: Path) -> None:
    x = np.concatenate([np.linspace(-8, 8, 101), np.linspace(-1, 1, 51)]).astype(np.float32)[None]
    model = graph([N(kind, ["x"], ["y"])], {"x": ["n", x.shape[1]]}, {"y": ["n", x.shape[1]]}, opset=20)
    got, wanted = compiled(model, tmp_path)[1].run({"x": x})["y"], run(model, {"x": x})["y"]
    np.testing.assert_allclose(got, wanted, rtol=3e-5, atol=1e-6)


def test_powers_of_any_sign(tmp_path: Path) -> None:
    x, k = rng.uniform(-3, 3, (2, 8)).astype(np.float32), np.array([2, 3, 0.5, -1, 0, 1, 1.7, -2], np.float32)
    model = graph([N("Pow", ["x", "k"], ["y"])], {"x": ["n", 8]}, {"y": ["n", 8]}, {"k": k}, opset=20)
    got, wanted = compiled(model, tmp_path)[1].run({"x": x})["y"], run(model, {"x": x})["y"]
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)
