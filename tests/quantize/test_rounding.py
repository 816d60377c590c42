"""GPTQ: less error than the nearest weights where inputs move together, the layer's mean kept, the rest left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeemo.quantize.calibration.moments import Moments
from edgeemo.quantize.calibration.observer import ActivationScaling
from edgeemo.quantize.calibration.sources import FeedSource
from edgeemo.quantize.layers import Layer, find_layers
from edgeemo.quantize.plan import observe, plan, quantize_plan
from edgeemo.quantize.qdq import bias_of
from edgeemo.quantize.recipe import Recipe
from edgeemo.quantize.report import layer_runner
from edgeemo.quantize.rounding import gptq, windows_of
from edgeemo.quantize.weights import WeightScaling, quantize_weight


def _inputs(rows: int, size: int, seed: int = 0) -> np.ndarray:
    """Inputs that move together, with a mean."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 3)) @ rng.normal(size=(3, size)) + 0.1 * rng.normal(size=(rows, size)) + 0.5


@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 90), out=st.integers(1, 8), qmax=st.sampled_from([7, 47, 127]), seed=st.integers(0, 5))
def test_it_is_never_far_worse_than_the_nearest_and_in_range(size: int, out: int, qmax: int, seed: int) -> None:
    x, weight = _inputs(400, size, seed), np.random.default_rng(seed).normal(size=(out, size))
    scale = np.abs(weight).max(axis=1) / qmax
    found = gptq(weight, scale, x.T @ x / len(x), qmax)
    assert found.shape == weight.shape
    assert np.abs(found.astype(int)).max() <= qmax

    def error(int8: np.ndarray) -> float:
        return float(((x @ (weight - int8 * scale[:, None]).T) ** 2).mean())

    assert error(found) <= 1.5 * error(quantize_weight(weight, scale, 0, qmax)) + 1e-9


def test_of_inputs_that_move_together_most_of_the_error_is_gone() -> None:
    x, weight = _inputs(2000, 64), np.random.default_rng(1).normal(size=(16, 64))
    scale = np.abs(weight).max(axis=1) / 47
    errors = [
        ((x @ (weight - int8 * scale[:, None]).T) ** 2).mean()
        for int8 in (gptq(weight, scale, x.T @ x / len(x), 47), quantize_weight(weight, scale, 0, 47))
    ]
    assert errors[0] < 0.3 * errors[1]


def _conv(weight: tuple[int, ...], x: tuple[int, ...], **attributes: object) -> tuple[Layer, np.ndarray]:
    rng = np.random.default_rng(2)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    scaling = WeightScaling("min-max", rounding="gptq")
    w = rng.normal(size=weight).astype(np.float32)
    return Layer("conv", "Conv", node, "x", "w", w, 0, "int8", scaling, ActivationScaling("mse")), rng.normal(size=x).astype(
        np.float32
    )


@pytest.mark.parametrize(
    ("weight", "x", "attributes"),
    [
        ((4, 3, 5), (2, 3, 19), {}),
        ((4, 3, 5), (2, 3, 19), {"strides": [2], "pads": [2, 1]}),
        ((6, 2, 3), (2, 4, 19), {"group": 2, "dilations": [3]}),
        ((4, 3, 3, 2), (2, 3, 9, 8), {"strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}),
    ],
)
def test_rows_are_what_a_convolution_reads(weight: tuple[int, ...], x: tuple[int, ...], attributes: dict[str, object]) -> None:
    layer, values = _conv(weight, x, **attributes)
    windows = windows_of(layer)
    assert windows is not None
    rows = windows.rows(values)
    flat = layer.weight.reshape(windows.groups, -1, windows.size)
    y = layer_runner(layer, layer.weight)(values)
    mine = np.concatenate([w @ r.T for w, r in zip(flat, rows, strict=True)])  # (channels, images and places)
    wanted = y.reshape(y.shape[0], y.shape[1], -1).transpose(1, 0, 2).reshape(y.shape[1], -1)
    np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [((8, 1, 3), {"group": 8}), ((4, 3, 5), {"auto_pad": "SAME_UPPER"}), ((2, 2100, 1), {})],
)
def test_some_layers_keep_their_nearest_weights(weight: tuple[int, ...], attributes: dict[str, object]) -> None:
    assert windows_of(_conv(weight, (1, 8, 9), **attributes)[0]) is None


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    x, whole, parts = _inputs(30, 5)[None], Moments(), Moments()
    whole.add(x)
    parts.add(x[:, :11])
    parts.add(x[:, 11:])
    assert whole.rows == parts.rows == 30
    np.testing.assert_allclose(whole.second, parts.second)


def _model(bias: str) -> onnx.ModelProto:
    """A product and one more, the first with a bias by an Add, a Gemm's own, or none."""
    rng = np.random.default_rng(3)
    w, v, b = (rng.normal(size=s).astype(np.float32) for s in ((32, 24), (24, 8), (24,)))
    product, add = helper.make_node("MatMul", ["x", "w"], ["h"], name="first"), []
    if bias == "add":
        product.output[0] = "h0"
        add = [helper.make_node("Add", ["b", "h0"], ["h"], name="add")]
    if bias == "gemm":
        product = helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first")
    rest = [helper.make_node("Relu", ["h"], ["r"], name="relu"), helper.make_node("MatMul", ["r", "v"], ["y"], name="second")]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", k]) for n, k in (("x", 32), ("y", 8))]
    held = [numpy_helper.from_array(a, n) for a, n in ((w, "w"), (v, "v"), (b, "b"))]
    graph = helper.make_graph([product, *add, *rest], "g", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def _feeds(folder: Path, rows: int) -> FeedSource:
    for i in range(4):
        np.savez(folder / f"{i}.npz", x=_inputs(rows, 32, i).astype(np.float32))
    return FeedSource.of(folder)


@pytest.mark.parametrize("bias", ["add", "gemm", "none"])
def test_the_means_of_layers_with_a_bias_are_kept(tmp_path: Path, bias: str) -> None:
    from edgeemo.onnxlib.session import open_session

    model, source = _model(bias), _feeds(tmp_path, 200)
    answers = {}
    for rounding in ("nearest", "gptq"):
        planned = plan(model, "m", Recipe(weight_rounding=rounding, weight_qmax=15))
        assert (bias_of(model, planned.layers[0].node) is None) == (bias == "none")
        quantized, report = quantize_plan(planned, observe(planned, source))
        x = np.concatenate([_inputs(200, 32, i) for i in range(4)]).astype(np.float32)
        answers[rounding] = open_session(quantized).run(None, {"x": x})[0]
        wanted = open_session(model).run(None, {"x": x})[0]
        assert report.layers[0].sqnr_db is not None
        assert {i.name for i in quantized.graph.initializer} <= {name for node in quantized.graph.node for name in node.input}
    errors = {name: float(((y - wanted) ** 2).mean()) for name, y in answers.items()}
    assert errors["gptq"] < 0.8 * errors["nearest"]


def test_with_few_rows_weights_are_the_nearest(tmp_path: Path) -> None:
    model, source = _model("add"), _feeds(tmp_path, 5)
    plans = [plan(model, "m", Recipe(weight_rounding=r)) for r in ("nearest", "gptq")]
    made = [quantize_plan(p, observe(p, source))[0].graph for p in plans]
    assert made[0] == made[1]


def test_layers_of_another_precision_are_left_alone(tmp_path: Path) -> None:
    source = _feeds(tmp_path, 200)
    planned = plan(_model("add"), "m", Recipe().keep(("first",), "fp32", "--keep-fp32"))
    quantized, _ = quantize_plan(planned, observe(planned, source))
    kept = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
    assert kept["w"].dtype == np.float32
    assert [x.name for x in find_layers(quantized, Recipe())] == ["first"]
    assert not any(name.startswith("w_") for name in kept)
