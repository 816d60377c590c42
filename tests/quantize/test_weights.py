"""Weights in INT8: any threshold method, a scale per channel or per tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from edgeemo.adapt.adapt import adapt, run
from edgeemo.onnxlib.feeds import made_up
from edgeemo.quantize.recipe import load_recipe
from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.quantize.weights import GRANULARITIES, WeightScaling, dequantize_weight, quantize_weight
from tests.graphs import graph, quantized

finite = st.floats(-(2.0**20), 2.0**20, width=32)
every = pytest.mark.parametrize("scaling", [WeightScaling(o, g) for o in THRESHOLDS for g in GRANULARITIES], ids=str)


@pytest.mark.slow
@every
@given(weight=arrays(np.float32, (6, 8), elements=finite))
def test_scales_are_positive_and_finite_and_clip_to_int8(scaling: WeightScaling, weight: np.ndarray) -> None:
    scales = scaling.scales(weight, axis=1)
    assert scales.shape == (8,) and scales.dtype == np.float32
    assert (scales > 0).all() and np.isfinite(scales).all()
    assert (scales <= WeightScaling("min-max").scales(weight, axis=1).max()).all()
    assert np.abs(quantize_weight(weight, scales, axis=1).astype(int)).max() <= 127
    if scaling.granularity == "per-tensor":
        assert len(set(scales)) == 1


@given(arrays(np.float32, (6, 8), elements=finite))
def test_min_max_clips_nothing(weight: np.ndarray) -> None:
    scales = WeightScaling("min-max").scales(weight, axis=1)
    close = dequantize_weight(quantize_weight(weight, scales, axis=1), scales, axis=1)
    assert np.abs(close - weight).max() <= scales.max() * 0.5001 + 1e-9


def test_a_dead_channel_has_a_finite_scale() -> None:
    weight = np.zeros((4, 3), dtype=np.float32)
    weight[:, 0] = 1.0
    assert (quantize_weight(weight, WeightScaling("min-max").scales(weight, 1), 1)[:, 1:] == 0).all()


def test_mse_is_nearer_than_min_max_where_one_weight_stands_out() -> None:
    """20,000 weights below 0.1 and one of 0.3: the many have 42 levels a side; clipping the one gives them more."""
    rng = np.random.default_rng(0)
    weight = np.append(rng.uniform(-0.1, 0.1, 20000), 0.3).astype(np.float32)[:, None]

    def error(scaling: WeightScaling) -> float:
        scales = scaling.scales(weight, 1)
        return float(((dequantize_weight(quantize_weight(weight, scales, 1), scales, 1) - weight) ** 2).sum())

    assert error(WeightScaling("mse")) < error(WeightScaling("min-max"))


def test_a_channel_of_large_weights_costs_others_their_levels_per_tensor() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32) * [1, 1, 1, 100]

    def levels(granularity: str) -> int:
        return len(np.unique(quantize_weight(weight, WeightScaling("min-max", granularity).scales(weight, 1), 1)[:, 0]))

    assert levels("per-channel") > 5 * levels("per-tensor")


def test_a_recipe_says_which_layer_gets_which(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "v"], ["y"], name="second"),
    ]
    rng = np.random.default_rng(0)
    constants = {n: rng.standard_normal((16, 16)).astype(np.float32) for n in ("w", "v")}
    model = adapt(graph(nodes, {"x": ["n", 16]}, {"y": ["n", 16]}, constants), "m", {}, {}).model
    (tmp_path / "mine.toml").write_text(
        'threshold = "min-max"\nweight_threshold = "mse"\n[[layers]]\nmatch = "second"\nweight_scales = "per-tensor"\n'
    )
    made = quantized(model, tmp_path, load_recipe(str(tmp_path / "mine.toml")))
    held = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    np.testing.assert_array_equal(held["w_scale"], WeightScaling("mse").scales(constants["w"], 1))
    np.testing.assert_array_equal(held["v_scale"], WeightScaling("mse", "per-tensor").scales(constants["v"], 1))
    onnx.checker.check_model(made)
    feed = made_up(model, 3)
    wanted = run(model, feed)["y"]
    assert np.abs(run(made, feed)["y"] - wanted).max() < 0.05 * np.abs(wanted).max()
