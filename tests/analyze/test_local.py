from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeemo.analyze.local import sqnr_by_threshold, study
from edgeemo.analyze.parts import Part, find_parts
from edgeemo.quantize.calibration.observer import ActivationScaling, Observer
from edgeemo.quantize.calibration.runner import Calibration
from edgeemo.quantize.layers import Layer
from edgeemo.quantize.plan import Plan
from edgeemo.quantize.thresholds import THRESHOLDS
from edgeemo.quantize.weights import WeightScaling

SCALINGS = {"x": ActivationScaling("min-max")}


def made(x: np.ndarray, weight: np.ndarray) -> tuple[Part, Calibration]:
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    layer = Layer("layer", "MatMul", node, "x", "w", weight, 1, "int8", WeightScaling("min-max"), ActivationScaling("kl"))
    observer = Observer("x")
    observer.observe_range(x)
    observer.observe_histogram(x)
    return Part("layer", "MatMul", ("layer",), (layer,), ("x",), 1), Calibration({"x": observer}, {"x": x}, 1, len(x), "")


def test_what_is_odd_about_channels_is_counted() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 8)).astype(np.float32)
    x[:, 2] *= 50  # an outlier
    x[:, 5] = 0  # never anything
    weight = rng.standard_normal((8, 6)).astype(np.float32)
    weight[:, 4] = 0  # gives nothing
    found = study(*made(x, weight), SCALINGS)
    assert (found.outlier_channels, found.zero_range_inputs, found.dead_channels) == (1, 1, 1)
    assert found.max_input == pytest.approx(np.abs(x).max())
    assert found.saturation == 0


def test_an_outlier_costs_decibels_and_a_tight_threshold_saturates() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2000, 8)).astype(np.float32), rng.standard_normal((8, 6)).astype(np.float32)
    calm = study(*made(x, weight), SCALINGS)
    spiked = x.copy()
    spiked[0, 0] = 300
    wild = study(*made(spiked, weight), SCALINGS)
    assert calm.sqnr_db > 35
    assert calm.cosine > 0.999
    part, calibration = made(spiked, weight)
    assert wild.sqnr_db < calm.sqnr_db - 5
    assert wild.saturation == 0
    assert study(part, calibration, {"x": ActivationScaling("percentile")}).saturation == 1 / x.size
    assert set(sqnr_by_threshold(part, calibration, SCALINGS)) == set(THRESHOLDS)


def test_every_part_of_a_model_can_be_studied(planned: Plan, calibration: Calibration) -> None:
    for part in find_parts(planned):
        found = study(part, calibration, planned.scalings)
        assert 5 < found.sqnr_db < 80
        assert 0 <= found.saturation < 0.05
        assert found.input_channels.size
