"""Quantization that would lie says so; calibration holds a bounded amount; every reader of a weight has a range that fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeemo_runtime.errors import EdgeEmoError
from onnx import helper

from edgeemo.adapt.adapt import adapt
from edgeemo.onnxlib.difference import difference
from edgeemo.onnxlib.session import open_session
from edgeemo.quantize.calibration import runner as calibrate
from edgeemo.quantize.calibration import sources
from edgeemo.quantize.calibration.sources import FeedSource
from edgeemo.quantize.findings import answer_warnings, calibration_warnings, feed_warnings, report_warnings
from edgeemo.quantize.plan import observe, plan, quantize_plan
from edgeemo.quantize.recipe import Recipe
from tests.graphs import graph

rng = np.random.default_rng(0)
W = (rng.standard_normal((16, 16)) * 0.3).astype(np.float32)


def feeds(folder: Path, count: int = 8, scale: float = 1.0, items: int = 4) -> FeedSource:
    for i in range(count):
        np.savez(folder / f"{i}.npz", x=(rng.standard_normal((items, 16)) * scale).astype(np.float32))
    return FeedSource.of(folder)


def net(scale: float = 1.0, back: float = 1.0) -> onnx.ModelProto:
    """x w, smaller by ``scale``, w again, larger by ``back``: one weight, two readers."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Mul", ["a", "k"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["c"], name="second"),
        helper.make_node("Mul", ["c", "j"], ["y"]),
    ]
    constants = {"w": W, "k": np.float32(scale), "j": np.float32(back)}
    return adapt(graph(nodes, {"x": ["n", 16]}, {"y": ["n", 16]}, constants), "m", {}, {}).model


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-9, 1e6])
def test_int8_is_near_float_whatever_the_magnitude_of_a_reader(scale: float, tmp_path: Path) -> None:
    model, source = net(scale, 1 / scale), feeds(tmp_path)
    planned = plan(model, "m", Recipe(threshold="mse"))
    quantized, report = quantize_plan(planned, observe(planned, source))
    x = {"x": rng.standard_normal((5, 16)).astype(np.float32)}
    floats, int8 = (open_session(m).run(None, x)[0] for m in (model, quantized))
    assert difference(int8, floats, norms=True) < 0.05
    assert not report_warnings(report) and not answer_warnings(model, quantized, source)


def test_zero_and_few_feeds_are_said(tmp_path: Path) -> None:
    source = feeds(tmp_path, 2, scale=0.0)
    planned = plan(net(), "m", Recipe())
    few, zero = feed_warnings(source, planned.model)
    assert few.startswith("few: 8 items") and zero.startswith("zero: x is zero in all feeds")
    (said,) = calibration_warnings(planned, observe(planned, source))
    assert "zero: the input of first, second are always zero" in said and "--keep-fp32" in said


def test_feeds_without_items_name_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 16), np.float32))
    planned = plan(net(), "m", Recipe())
    with pytest.raises(EdgeEmoError, match=r"empty\.npz: no items in its arrays"):
        observe(planned, FeedSource.of(tmp_path))


def test_thresholds_and_answers_that_are_far_off_are_said(tmp_path: Path) -> None:
    model, source = net(), feeds(tmp_path)
    planned = plan(model, "m", Recipe(threshold="mse"))
    calibration = observe(planned, source)
    for tensor in calibration.ranges.values():
        tensor.remember(dict.fromkeys(("kl", "mse", "percentile", "min-max"), tensor.largest / 100))  # type: ignore[attr-defined]
    quantized, report = quantize_plan(planned, calibration)
    (cut,) = calibration_warnings(planned, calibration)
    assert "clipped: thresholds keep little of the energy of the input of first" in cut and "min-max" in cut
    assert "first" in report_warnings(report)[0] and "dB" in report_warnings(report)[0]
    assert answer_warnings(model, quantized, source)[0].startswith("far: INT8's y (")


def test_large_tensors_in_parts_give_the_same_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned, source = plan(net(), "m", Recipe()), feeds(tmp_path)
    whole = observe(planned, source)
    monkeypatch.setattr(sources, "AT_ONCE", 1)
    monkeypatch.setattr(calibrate, "SAMPLE_BYTES", 1)
    parts = observe(planned, source)
    assert parts.steps == whole.steps
    for tensor, found in whole.ranges.items():
        assert parts.ranges[tensor].threshold("kl") == found.threshold("kl")
        assert len(parts.samples[tensor]) == 1 < len(whole.samples[tensor])
